"""Release decisions: valid under watching (see docs/analysis)."""
