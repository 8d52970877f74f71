"""An agent on an open model that runs on this machine."""
