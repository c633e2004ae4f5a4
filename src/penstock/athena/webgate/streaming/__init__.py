"""Sessions over WebSocket: messages in become parts of a call, its chunks become messages out."""
