"""What the networks of each family are in other libraries: in timm and in transformers."""
