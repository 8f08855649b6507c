"""What both programs that run for long have in common: their logs, and what they tell systemd."""
