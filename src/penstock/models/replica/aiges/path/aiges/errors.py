"""The numbers of failures of wrappers in Python."""

from penstock.models.replica.aiges import codes

OK = 0
INIT_ERROR = codes.INIT_RAISED
USER_INIT_ERROR = codes.INIT_REFUSED
USER_EXEC_ERROR = codes.EXEC_RAISED
