"""Requests and responses in the forms of the RPC, as protobuf messages. It needs the extra ``athena``.

Three forms carry the same messages: that of the loader of engines (``loader.py``), that between the web gateway and the
next service (``biz.py``), and that of the protocol's document (``general.py``). In all of them, values are texts.
"""
