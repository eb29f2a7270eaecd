"""What a sweep keeps in its directory beside the records: the lock, requests to stop, what runs at this moment."""
