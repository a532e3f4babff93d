"""What the programs share: flags, errors, exit statuses, and what is set for XLA."""
