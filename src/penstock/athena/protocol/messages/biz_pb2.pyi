from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ServerBiz(_message.Message):
    __slots__ = ("msg_type", "version", "global_route", "up_call", "up_result", "down_call", "down_result")
    class MsgType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UP_CALL: _ClassVar[ServerBiz.MsgType]
        UP_RESULT: _ClassVar[ServerBiz.MsgType]
        DOWN_CALL: _ClassVar[ServerBiz.MsgType]
        DOWN_RESULT: _ClassVar[ServerBiz.MsgType]
    UP_CALL: ServerBiz.MsgType
    UP_RESULT: ServerBiz.MsgType
    DOWN_CALL: ServerBiz.MsgType
    DOWN_RESULT: ServerBiz.MsgType
    MSG_TYPE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    GLOBAL_ROUTE_FIELD_NUMBER: _ClassVar[int]
    UP_CALL_FIELD_NUMBER: _ClassVar[int]
    UP_RESULT_FIELD_NUMBER: _ClassVar[int]
    DOWN_CALL_FIELD_NUMBER: _ClassVar[int]
    DOWN_RESULT_FIELD_NUMBER: _ClassVar[int]
    msg_type: ServerBiz.MsgType
    version: str
    global_route: GlobalRoute
    up_call: UpCall
    up_result: UpResult
    down_call: DownCall
    down_result: DownResult
    def __init__(self, msg_type: _Optional[_Union[ServerBiz.MsgType, str]] = ..., version: _Optional[str] = ..., global_route: _Optional[_Union[GlobalRoute, _Mapping]] = ..., up_call: _Optional[_Union[UpCall, _Mapping]] = ..., up_result: _Optional[_Union[UpResult, _Mapping]] = ..., down_call: _Optional[_Union[DownCall, _Mapping]] = ..., down_result: _Optional[_Union[DownResult, _Mapping]] = ...) -> None: ...

class GlobalRoute(_message.Message):
    __slots__ = ("headers",)
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    headers: _containers.ScalarMap[str, str]
    def __init__(self, headers: _Optional[_Mapping[str, str]] = ...) -> None: ...

class UpCall(_message.Message):
    __slots__ = ("call", "seq_no", "sync", "session_state", "business_args", "session", "data_list")
    class SessState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STREAM: _ClassVar[UpCall.SessState]
        ONCE: _ClassVar[UpCall.SessState]
    STREAM: UpCall.SessState
    ONCE: UpCall.SessState
    class BusinessArgsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: ArgsData
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[ArgsData, _Mapping]] = ...) -> None: ...
    class SessionEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CALL_FIELD_NUMBER: _ClassVar[int]
    SEQ_NO_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    SYNC_FIELD_NUMBER: _ClassVar[int]
    SESSION_STATE_FIELD_NUMBER: _ClassVar[int]
    BUSINESS_ARGS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    DATA_LIST_FIELD_NUMBER: _ClassVar[int]
    call: str
    seq_no: int
    sync: bool
    session_state: UpCall.SessState
    business_args: _containers.MessageMap[str, ArgsData]
    session: _containers.ScalarMap[str, str]
    data_list: _containers.RepeatedCompositeFieldContainer[GeneralData]
    def __init__(self, call: _Optional[str] = ..., seq_no: _Optional[int] = ..., sync: _Optional[bool] = ..., session_state: _Optional[_Union[UpCall.SessState, str]] = ..., business_args: _Optional[_Mapping[str, ArgsData]] = ..., session: _Optional[_Mapping[str, str]] = ..., data_list: _Optional[_Iterable[_Union[GeneralData, _Mapping]]] = ..., **kwargs) -> None: ...

class MetaDesc(_message.Message):
    __slots__ = ("name", "dataType", "attribute")
    class DataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        TEXT: _ClassVar[MetaDesc.DataType]
        AUDIO: _ClassVar[MetaDesc.DataType]
        IMAGE: _ClassVar[MetaDesc.DataType]
        VIDEO: _ClassVar[MetaDesc.DataType]
        OTHER: _ClassVar[MetaDesc.DataType]
    TEXT: MetaDesc.DataType
    AUDIO: MetaDesc.DataType
    IMAGE: MetaDesc.DataType
    VIDEO: MetaDesc.DataType
    OTHER: MetaDesc.DataType
    class AttributeEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dataType: MetaDesc.DataType
    attribute: _containers.ScalarMap[str, str]
    def __init__(self, name: _Optional[str] = ..., dataType: _Optional[_Union[MetaDesc.DataType, str]] = ..., attribute: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ArgsData(_message.Message):
    __slots__ = ("business_args", "ple")
    class BusinessArgsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class PleEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: MetaDesc
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[MetaDesc, _Mapping]] = ...) -> None: ...
    BUSINESS_ARGS_FIELD_NUMBER: _ClassVar[int]
    PLE_FIELD_NUMBER: _ClassVar[int]
    business_args: _containers.ScalarMap[str, str]
    ple: _containers.MessageMap[str, MetaDesc]
    def __init__(self, business_args: _Optional[_Mapping[str, str]] = ..., ple: _Optional[_Mapping[str, MetaDesc]] = ...) -> None: ...

class UpResult(_message.Message):
    __slots__ = ("ret", "ack_no", "err_info", "status", "session", "data_list")
    class RespStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        BEGIN: _ClassVar[UpResult.RespStatus]
        CONTINUE: _ClassVar[UpResult.RespStatus]
        END: _ClassVar[UpResult.RespStatus]
        ONCE: _ClassVar[UpResult.RespStatus]
    BEGIN: UpResult.RespStatus
    CONTINUE: UpResult.RespStatus
    END: UpResult.RespStatus
    ONCE: UpResult.RespStatus
    class SessionEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    RET_FIELD_NUMBER: _ClassVar[int]
    ACK_NO_FIELD_NUMBER: _ClassVar[int]
    ERR_INFO_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    DATA_LIST_FIELD_NUMBER: _ClassVar[int]
    ret: int
    ack_no: int
    err_info: str
    status: UpResult.RespStatus
    session: _containers.ScalarMap[str, str]
    data_list: _containers.RepeatedCompositeFieldContainer[GeneralData]
    def __init__(self, ret: _Optional[int] = ..., ack_no: _Optional[int] = ..., err_info: _Optional[str] = ..., status: _Optional[_Union[UpResult.RespStatus, str]] = ..., session: _Optional[_Mapping[str, str]] = ..., data_list: _Optional[_Iterable[_Union[GeneralData, _Mapping]]] = ..., **kwargs) -> None: ...

class DownCall(_message.Message):
    __slots__ = ("ret", "err_info", "seq_no", "status", "data_list")
    class RespStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        BEGIN: _ClassVar[DownCall.RespStatus]
        CONTINUE: _ClassVar[DownCall.RespStatus]
        END: _ClassVar[DownCall.RespStatus]
        ONCE: _ClassVar[DownCall.RespStatus]
    BEGIN: DownCall.RespStatus
    CONTINUE: DownCall.RespStatus
    END: DownCall.RespStatus
    ONCE: DownCall.RespStatus
    RET_FIELD_NUMBER: _ClassVar[int]
    ERR_INFO_FIELD_NUMBER: _ClassVar[int]
    SEQ_NO_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DATA_LIST_FIELD_NUMBER: _ClassVar[int]
    ret: int
    err_info: str
    seq_no: int
    status: DownCall.RespStatus
    data_list: _containers.RepeatedCompositeFieldContainer[GeneralData]
    def __init__(self, ret: _Optional[int] = ..., err_info: _Optional[str] = ..., seq_no: _Optional[int] = ..., status: _Optional[_Union[DownCall.RespStatus, str]] = ..., data_list: _Optional[_Iterable[_Union[GeneralData, _Mapping]]] = ..., **kwargs) -> None: ...

class DownResult(_message.Message):
    __slots__ = ("ret", "ack_no", "err_info", "args")
    class ArgsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    RET_FIELD_NUMBER: _ClassVar[int]
    ACK_NO_FIELD_NUMBER: _ClassVar[int]
    ERR_INFO_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    ret: int
    ack_no: int
    err_info: str
    args: _containers.ScalarMap[str, str]
    def __init__(self, ret: _Optional[int] = ..., ack_no: _Optional[int] = ..., err_info: _Optional[str] = ..., args: _Optional[_Mapping[str, str]] = ...) -> None: ...

class GeneralData(_message.Message):
    __slots__ = ("meta", "data")
    META_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    meta: MetaDesc
    data: bytes
    def __init__(self, meta: _Optional[_Union[MetaDesc, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...
