"""What a drill loses, brings back and proves in its scratch database."""
