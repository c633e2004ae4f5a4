"""The texts of generated tables in Chinese, by the English ones; a changed English text needs a new Chinese one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

CODES: Final[Mapping[str, str]] = {
    "JSON could not be read": "无法读取 JSON",
    "JSON could not be written": "无法写出 JSON",
    "a callback of the engine named an unknown function": "引擎的回调指明了未知的函数",
    "a callback of the engine named an unknown handle": "引擎的回调指明了未知的句柄",
    "a message came after the session's last one": "会话的最后一条消息之后又收到消息",
    "a message could not be converted": "无法转换消息",
    "a message could not be decoded": "无法解码消息",
    "a message could not be encoded": "无法编码消息",
    "a parameter is missing": "缺少参数",
    "a parameter is not allowed by the schema": "schema 不允许该参数",
    "a parameter of a message is not valid": "消息的参数无效",
    "a parameter or a result of the engine is not valid": "引擎的参数或结果无效",
    "a request for data by HTTP could not be made": "无法发出获取数据的 HTTP 请求",
    "a request for data by HTTP failed, or processing of data could not start": (
        "获取数据的 HTTP 请求失败，或无法开始处理数据"
    ),
    "a request for data by HTTP took too long": "获取数据的 HTTP 请求超时",
    "a session of this id exists already": "该编号的会话已经存在",
    "data could not be decoded": "无法解码数据",
    "data could not be encoded": "无法编码数据",
    "data fetched by HTTP is not valid": "通过 HTTP 取得的数据无效",
    "data is not valid base64, gzip, or text of the stated encoding": (
        "数据不是有效的 base64、gzip，或不是所述编码的文本"
    ),
    "every place is taken, and the queue is full": "并发名额已用完，且队列已满",
    "no session id could be made": "无法生成会话编号",
    "the address or the service behind it is not known": "地址或其对应的服务未知",
    "the app id is missing, or does not belong to the key": "缺少应用 ID，或它不属于该密钥",
    "the buffer is empty": "缓冲区为空",
    "the buffer was closed": "缓冲区已关闭",
    "the client has sent everything, but the last result did not come": "客户端已发送完毕，但没有得到最后的结果",
    "the codec could not start": "编解码器无法启动",
    "the codec could not stop": "编解码器无法停止",
    "the connection could not become a WebSocket": "连接无法升级为 WebSocket",
    "the connection failed while it was read": "读取时连接失败",
    "the data of a response cannot be read": "无法读取响应的数据",
    "the engine crashed": "引擎崩溃",
    "the engine does not work in this mode": "引擎不支持该模式",
    "the engine is not ready, or the session was released": "引擎未就绪，或会话已释放",
    "the engine took too long": "引擎超时",
    "the engine's message is empty": "引擎的消息为空",
    "the event is not known": "事件未知",
    "the handle of the session is not valid": "会话句柄无效",
    "the input is not valid": "输入无效",
    "the number of places could not be changed": "无法改变并发名额数",
    "the operation is not known": "操作未知",
    "the request breaks a rule; the message names the field": "请求违反规则；错误消息中指出字段",
    "the request holds no data": "请求中没有数据",
    "the request is not JSON": "请求不是 JSON",
    "the request to the engine could not be made": "无法向引擎发出请求",
    "the result does not fit the schema": "结果不符合 schema",
    "the server behind the engine failed": "引擎背后的服务器失败",
    "the service failed": "服务失败",
    "the service is not known": "服务未知",
    "the session has ended, or is not known": "会话已结束，或会话未知",
    "the session took too long, or nothing was sent for too long": "会话持续过久，或过久没有发送任何内容",
    "the session was idle for too long": "会话空闲过久",
    "the state of a non-real-time task could not be stored": "无法保存非实时任务的状态",
    "the state of the session that the client sent is not valid": "客户端发送的会话状态无效",
    "the value of a parameter is not valid": "参数的值无效",
    "the version of a message is not known": "消息的版本未知",
    "the wrapper could not be loaded": "无法加载 wrapper",
    "the wrapper raised an exception": "wrapper 抛出异常",
    "the wrapper's wrapperInit raised an exception": "wrapper 的 wrapperInit 抛出异常",
    "wrapperCreate failed": "wrapperCreate 失败",
    "wrapperDestroy failed": "wrapperDestroy 失败",
    "wrapperFini failed": "wrapperFini 失败",
    "wrapperInit failed": "wrapperInit 失败",
    "wrapperLoadRes failed": "wrapperLoadRes 失败",
    "wrapperOnceExec failed": "wrapperOnceExec 失败",
    "wrapperOnceExecAsync failed": "wrapperOnceExecAsync 失败",
    "wrapperRead failed": "wrapperRead 失败",
    "wrapperUnloadRes failed": "wrapperUnloadRes 失败",
    "wrapperWrite failed": "wrapperWrite 失败",
}

AIGES_KEYS: Final[Mapping[str, str]] = {
    # effects
    "honoured": "有效",
    "not needed": "不需要",
    "unsupported": "不支持",
    # names
    "all others": "其他所有键",
    # meanings
    "PENSTOCK_ATHENA_GRPC_MESSAGE_BYTES bounds messages of the RPC": (
        "RPC 的消息由 PENSTOCK_ATHENA_GRPC_MESSAGE_BYTES 限制"
    ),
    "PENSTOCK_LOG_LEVEL is for all of Penstock": "PENSTOCK_LOG_LEVEL 适用于整个 Penstock",
    "[fc] ttl is the time for which a session may be idle": "[fc] ttl 是会话可以空闲的时间",
    "`callbacks` of a C engine; a Python engine has both ways": "C 引擎的 `callbacks`；Python 引擎两种方式都有",
    "`command` of aiges-plugin, unless it runs wrapper.py": "aiges-plugin 的 `command`，除非它运行 wrapper.py",
    "`concurrency`: places of the replica": "`concurrency`：副本的并发名额数",
    "`header_pass`: fields of a call's header that become parameters": "`header_pass`：成为参数的 header 字段",
    "`realtime` of a C engine without callbacks": "没有回调的 C 引擎的 `realtime`",
    "`session_timeout`, here in milliseconds": "`session_timeout`，这里以毫秒为单位",
    "a call that exceeds the model's timeout and cannot be stopped ends its replica": (
        "超过模型时限且无法停止的调用会结束其副本"
    ),
    "a manifest names resources: `resources`": "资源写在清单中：`resources`",
    "a place is free when the engine has returned": "引擎返回后并发名额即空出",
    "a session is removed when it ends": "会话结束时即被移除",
    "calls go to the replica with the most free places": "调用送往空闲名额最多的副本",
    "data of calls is not stored; that of jobs is": "调用的数据不保存；作业的数据会保存",
    "engines are not imitated": "不模拟引擎",
    "for qpsLimiter state a quota": "请用配额代替 qpsLimiter",
    "a gateway serves the models of its own machine and uses no central registry": (
        "网关使用本机的模型；没有集中的服务发现"
    ),
    "idle sessions end on time": "空闲的会话按时结束",
    "logs go to standard output": "日志写到标准输出",
    "metrics have the version of a model instead": "由带有模型版本的指标代替",
    "off: the other keys of [fc] have no effect": "关闭：[fc] 的其他键不起作用",
    "penstock model test calls a model instead": "请用 penstock model test 调用模型",
    "penstock usage and /metrics have the numbers of each service and key": (
        "各服务和密钥的数字见 penstock usage 和 /metrics"
    ),
    "processes are not bound to memory nodes; start Penstock by numactl": (
        "进程不绑定内存节点；请用 numactl 启动 Penstock"
    ),
    "results of non-real-time calls go to callbacks": "非实时调用的结果发往回调",
    "sound is not resampled: engines get the samples of clients": "声音不重新采样：引擎得到客户端的采样数据",
    "spans are not recorded; /metrics has latencies": "不记录 span；/metrics 有延迟数据",
    "state a quota instead: penstock quota": "请改用配额：penstock quota",
    "tasks are jobs, whose state is in PostgreSQL": "任务就是作业，其状态在 PostgreSQL 中",
    "the engine's own schema states `sub`": "`sub` 由引擎自己的 schema 写明",
    "the gateway fetches data for calls by its own rules": "网关按自己的规则为调用获取数据",
    "the gateway has one address for all services: HTTP_HOST, HTTP_PORT, PENSTOCK_ATHENA_GRPC_PORT": (
        "网关对所有服务使用同一个地址：HTTP_HOST、HTTP_PORT、PENSTOCK_ATHENA_GRPC_PORT"
    ),
    "the gateway has one address for all services: "
    "HTTP_HOST, HTTP_PORT, PENSTOCK_ATHENA_GRPC_PORT; the engine gets it, too": (
        "网关对所有服务使用同一个地址：HTTP_HOST、HTTP_PORT、PENSTOCK_ATHENA_GRPC_PORT；引擎也会得到该键"
    ),
    "the gateway limits how long a session lasts": "会话的时长由网关限制",
    "the load of processors is not reported": "不上报处理器的负载",
    "the loader's profile is not offered": "不提供加载器的性能剖析",
    "the model's timeout is the time limit of calls": "模型的 timeout 就是调用的时限",
    "the service takes sessions, beside single calls": "服务除单次调用外还支持会话",
    "no load balancer needs these reports": "没有需要上报的负载均衡器",
    "what an engine logs is in its log: penstock model logs": "引擎的日志在其日志中：penstock model logs",
    "what wrapperInit gets": "wrapperInit 得到的内容",
    "wrapperInit gets this file, with keys section.key, not [wrapper]": (
        "wrapperInit 得到该文件（键为 section.key），而不是 [wrapper]"
    ),
}
