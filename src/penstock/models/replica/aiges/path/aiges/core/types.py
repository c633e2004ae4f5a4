"""The kinds of data, the states of a stream, and the modes of handle pools, by the names that wrappers import."""

from __future__ import annotations

from penstock.models.replica.aiges import kinds

STRING = kinds.TEXT
AUDIO = kinds.AUDIO
IMAGE = kinds.IMAGE
VIDEO = kinds.VIDEO

DataText = kinds.TEXT
DataAudio = kinds.AUDIO
DataImage = kinds.IMAGE
DataVideo = kinds.VIDEO

Types = {DataText: "text", DataAudio: "audio", DataImage: "image", DataVideo: "video"}

DataBegin = kinds.BEGIN
DataContinue = kinds.CONTINUE
DataEnd = kinds.END
DataOnce = kinds.ONCE

Status = {DataBegin: "begin", DataContinue: "continue", DataEnd: "end", DataOnce: "once"}

Once = DataOnce

THREAD_MODE = "thread"
PROCESS_MODE = "process"  # runs as threads
