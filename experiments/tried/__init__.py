"""What was tried to do better than SCMD, a file each."""
