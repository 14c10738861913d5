"""What a stage minimises, one objective a module."""
