"""The progressive release, purely: its plan, where it stands, and what comes next."""
