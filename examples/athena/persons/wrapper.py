"""Persons in pictures: their boxes as JSON, and the picture with the boxes drawn into it."""

import json

import cv2
import numpy as np
from aiges.core.types import *  # noqa: F403  (as in published wrappers)
from aiges.core.types import DataImage, DataText, Once

try:
    from aiges_embed import DataListCls, Response, ResponseData
except ImportError:
    from aiges.dto import DataListCls, Response, ResponseData

from aiges.sdk import ImageBodyField, IntegerParamField, NumberParamField, StringBodyField, WrapperBase

NO_PICTURE = 100


class UserRequest:
    img = ImageBodyField(key="img", path="test_data/street.jpg")
    least = NumberParamField(key="least", minimum=0, maximum=5, value=0.5)  # the least weight of a detection
    height = IntegerParamField(key="height", minimum=128, maximum=2000, value=320)  # pixels to which it is scaled down


class UserResponse:
    accept1 = StringBodyField(key="persons", format="json")
    accept2 = ImageBodyField(key="drawn", encoding="png")


class Wrapper(WrapperBase):
    serviceId = "persons"
    version = "v1"
    requestCls = UserRequest()
    responseCls = UserResponse()

    def wrapperInit(self, config):
        self.model = cv2.HOGDescriptor()
        self.model.setSVMDetector(cv2.HOGDescriptor.getDefaultPeopleDetector())
        return 0

    def wrapperOnceExec(self, params, reqData: DataListCls, usrTag="", persId=0):
        response = Response()
        given = reqData.get("img")
        picture = None if given is None else cv2.imdecode(np.frombuffer(given.data, np.uint8), cv2.IMREAD_COLOR)
        if picture is None:
            return response.response_err(NO_PICTURE)
        persons = self.find(picture, int(params.get("height", 320)), float(params.get("least", 0.5)))
        for x, y, width, height in (person["box"] for person in persons):
            cv2.rectangle(picture, (x, y), (x + width, y + height), (0, 200, 0), 3)
        drawn = cv2.imencode(".png", picture)[1].tobytes()
        response.list = [
            filled("persons", json.dumps(persons).encode(), DataText),
            filled("drawn", drawn, DataImage),
        ]
        return response

    def find(self, picture, height, least):
        """Return the persons in a picture. The detector sees one that is at least 128 pixels high after scaling."""
        factor = min(1.0, height / picture.shape[0])
        small = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        found, weights = self.model.detectMultiScale(small, winStride=(4, 4), padding=(32, 32), scale=1.05)
        return [
            {"box": [round(int(n) / factor) for n in box], "weight": round(float(weight), 3)}
            for box, weight in zip(found, np.ravel(weights), strict=True)
            if weight >= least
        ]

    def wrapperError(self, ret):
        return "the data object img must hold a picture" if ret == NO_PICTURE else ""


def filled(key, data, kind):
    result = ResponseData()
    result.key = key
    result.status = Once
    result.setDataType(kind)
    result.setData(data)
    return result


if __name__ == "__main__":
    Wrapper().run()
