"""Configuration: the schema (`schema`), and how files and `key=value` overrides are laid over it (`load`)."""
