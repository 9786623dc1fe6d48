"""Configuration: the schema (`schema`), and how files and `key=value` words are laid over it (`load`)."""
