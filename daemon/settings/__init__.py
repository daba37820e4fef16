"""What the process is told: from the environment, a `.env` file, and files that hold secrets."""
