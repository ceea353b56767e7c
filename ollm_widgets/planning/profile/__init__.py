"""What this machine gives: measured once, remembered with its hardware."""
