"""Videos: encoding, writing frame by frame, and captions."""
