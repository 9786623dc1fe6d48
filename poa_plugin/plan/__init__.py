"""What a recipe takes, before anything is started: memory, work, hours and traffic."""
