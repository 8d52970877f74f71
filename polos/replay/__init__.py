"""User code run against its recorded history, without I/O."""
