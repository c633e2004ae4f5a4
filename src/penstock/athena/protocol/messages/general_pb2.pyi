from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SessState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STREAM: _ClassVar[SessState]
    ONCE: _ClassVar[SessState]
STREAM: SessState
ONCE: SessState

class GlobalRoute(_message.Message):
    __slots__ = ("session_id", "trace_id", "up_router_id", "guider_id", "down_router_id", "appid", "uid", "did", "client_ip", "session_state")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    UP_ROUTER_ID_FIELD_NUMBER: _ClassVar[int]
    GUIDER_ID_FIELD_NUMBER: _ClassVar[int]
    DOWN_ROUTER_ID_FIELD_NUMBER: _ClassVar[int]
    APPID_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    DID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_IP_FIELD_NUMBER: _ClassVar[int]
    SESSION_STATE_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    trace_id: str
    up_router_id: str
    guider_id: str
    down_router_id: str
    appid: str
    uid: str
    did: str
    client_ip: str
    session_state: SessState
    def __init__(self, session_id: _Optional[str] = ..., trace_id: _Optional[str] = ..., up_router_id: _Optional[str] = ..., guider_id: _Optional[str] = ..., down_router_id: _Optional[str] = ..., appid: _Optional[str] = ..., uid: _Optional[str] = ..., did: _Optional[str] = ..., client_ip: _Optional[str] = ..., session_state: _Optional[_Union[SessState, str]] = ...) -> None: ...

class GeneralData(_message.Message):
    __slots__ = ("data_id", "frame_id", "data_type", "status", "desc_args", "data")
    class DataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        TEXT: _ClassVar[GeneralData.DataType]
        AUDIO: _ClassVar[GeneralData.DataType]
        IMAGE: _ClassVar[GeneralData.DataType]
        VIDEO: _ClassVar[GeneralData.DataType]
    TEXT: GeneralData.DataType
    AUDIO: GeneralData.DataType
    IMAGE: GeneralData.DataType
    VIDEO: GeneralData.DataType
    class DataStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        BEGIN: _ClassVar[GeneralData.DataStatus]
        CONTINUE: _ClassVar[GeneralData.DataStatus]
        END: _ClassVar[GeneralData.DataStatus]
        ONCE: _ClassVar[GeneralData.DataStatus]
    BEGIN: GeneralData.DataStatus
    CONTINUE: GeneralData.DataStatus
    END: GeneralData.DataStatus
    ONCE: GeneralData.DataStatus
    class DescArgsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    DATA_ID_FIELD_NUMBER: _ClassVar[int]
    FRAME_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DESC_ARGS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    data_id: str
    frame_id: int
    data_type: GeneralData.DataType
    status: GeneralData.DataStatus
    desc_args: _containers.ScalarMap[str, str]
    data: bytes
    def __init__(self, data_id: _Optional[str] = ..., frame_id: _Optional[int] = ..., data_type: _Optional[_Union[GeneralData.DataType, str]] = ..., status: _Optional[_Union[GeneralData.DataStatus, str]] = ..., desc_args: _Optional[_Mapping[str, str]] = ..., data: _Optional[bytes] = ...) -> None: ...
