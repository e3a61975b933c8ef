"""The commands that say what runs mean, a file each. They need neither torch nor Ray."""
