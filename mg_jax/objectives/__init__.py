"""What can be trained, behind one protocol."""
