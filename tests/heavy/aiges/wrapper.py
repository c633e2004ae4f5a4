"""A wrapper for the original package aiges: capital letters, whole or part by part."""

from aiges.callback import callback
from aiges.core.types import *  # noqa: F403

try:
    from aiges_embed import DataListCls, Response, ResponseData, SessionCreateResponse
except ImportError:
    from aiges.dto import DataListCls, Response, ResponseData, SessionCreateResponse

from aiges.sdk import StringBodyField, StringParamField, WrapperBase


class UserRequest:
    text = StringBodyField(key="text", value=b"hello")
    suffix = StringParamField(key="suffix", value="!")


class UserResponse:
    upper = StringBodyField(key="upper")


class Wrapper(WrapperBase):
    serviceId = "upper"
    version = "v1"
    requestCls = UserRequest()
    responseCls = UserResponse()

    def wrapperInit(self, config) -> int:
        self.config = dict(config)
        self.tags = {}
        return int(self.config.get("ret", 0))

    def wrapperOnceExec(self, params, reqData: DataListCls, usrTag="", persId=0) -> Response:
        if params.get("suffix") == "raise":
            raise ValueError("this is what went wrong")
        if params.get("suffix") == "none":
            return None
        return answer(reqData.get("text").data, params.get("suffix", "") + self.config.get("end", ""), 3)

    def wrapperCreate(self, params, sid, userTag="", persId=0) -> SessionCreateResponse:
        created = SessionCreateResponse()
        created.handle = f"handle of {sid}"
        created.error_code = 0
        self.tags[created.handle] = userTag
        return created

    def wrapperWrite(self, handle, req: DataListCls, sid) -> int:
        node = req.get("text")
        callback(answer(node.data, "", node.status), self.tags[handle], sid)
        return 0

    def wrapperDestroy(self, handle) -> int:
        del self.tags[handle]
        return 0

    def wrapperFini(self) -> int:
        return 0

    def wrapperError(self, ret) -> str:
        return ""


def answer(data, suffix, status):
    piece = ResponseData()
    piece.key = "upper"
    piece.setDataType(DataText)  # noqa: F405
    piece.status = status
    piece.setData(bytes(data).decode().upper().encode() + suffix.encode())
    response = Response()
    response.list = [piece]
    return response
