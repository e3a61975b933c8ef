"""The commands, a file each. Those that plan or say what runs mean start without torch and Ray."""
