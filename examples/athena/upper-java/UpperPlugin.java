import aiges.Plugin.CreateRequest;
import aiges.Plugin.Handle;
import aiges.Plugin.InitRequest;
import aiges.Plugin.Request;
import aiges.Plugin.RequestData;
import aiges.Plugin.Response;
import aiges.Plugin.ResponseData;
import aiges.Plugin.Ret;
import aiges.Plugin.Schema;
import aiges.Plugin.SvcId;
import aiges.Plugin.WriteMessage;
import aiges.WrapperServiceGrpc.WrapperServiceImplBase;
import com.google.protobuf.ByteString;
import io.grpc.Server;
import io.grpc.netty.NettyServerBuilder;
import io.grpc.stub.StreamObserver;
import java.net.InetSocketAddress;
import java.util.ArrayDeque;
import java.util.Locale;
import java.util.Map;
import java.util.Queue;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicLong;

/** An Athena Serving engine in Java: returns a text in capital letters, whole or part by part. */
public final class UpperPlugin extends WrapperServiceImplBase {
    private static final int NO_TEXT = 4001;
    private static final int DATA_TEXT = 0;

    private final Map<String, String> tags = new ConcurrentHashMap<>(); // of sessions, by their handles
    private final AtomicLong numbers = new AtomicLong();
    private final Queue<Response> waiting = new ArrayDeque<>(); // results before the stream was opened
    private StreamObserver<Response> results;

    public static void main(String[] arguments) throws Exception {
        String port = System.getenv().getOrDefault("PLUGIN_MIN_PORT", "0");
        Server server = NettyServerBuilder.forAddress(new InetSocketAddress("127.0.0.1", Integer.parseInt(port)))
            .addService(new UpperPlugin())
            .build()
            .start();
        System.out.println("1|1|tcp|127.0.0.1:" + server.getPort() + "|grpc");
        server.awaitTermination();
    }

    // The life of the engine

    @Override
    public void wrapperInit(InitRequest request, StreamObserver<Ret> response) {
        System.out.println("capital letters with Java " + Runtime.version().feature()); // a line of the model's log
        answer(response, Ret.getDefaultInstance());
    }

    @Override
    public void wrapperSchema(SvcId request, StreamObserver<Schema> response) {
        String accepted = "{\"input\":{\"text\":{\"dataType\":\"text\"}},\"accept\":{\"upper\":{\"dataType\":\"text\"}}}";
        String meta = "{\"meta\":{\"serviceId\":\"upper-java\",\"version\":\"v1\",\"upper-java\":" + accepted + "}}";
        answer(response, Schema.newBuilder().setData(meta).build());
    }

    // Calls

    @Override
    public void wrapperOnceExec(Request request, StreamObserver<Response> response) {
        RequestData text = textIn(request);
        if (text == null) {
            answer(response, Response.newBuilder().setRet(NO_TEXT).build());
            return;
        }
        send(request.getTag(), text);
        answer(response, Response.getDefaultInstance());
    }

    // Sessions

    @Override
    public void wrapperCreate(CreateRequest request, StreamObserver<Handle> response) {
        String handle = "session " + numbers.incrementAndGet();
        tags.put(handle, request.getTag());
        answer(response, Handle.newBuilder().setHandle(handle).build());
    }

    @Override
    public void wrapperWrite(WriteMessage request, StreamObserver<Ret> response) {
        RequestData text = textIn(request.getReq());
        if (text != null) {
            send(tags.get(request.getHandle()), text);
        }
        answer(response, Ret.newBuilder().setRet(text == null ? NO_TEXT : 0).build());
    }

    @Override
    public void wrapperDestroy(Handle request, StreamObserver<Ret> response) {
        tags.remove(request.getHandle());
        answer(response, Ret.getDefaultInstance());
    }

    // Results

    @Override
    public synchronized StreamObserver<Request> communicate(StreamObserver<Response> stream) {
        results = stream;
        waiting.forEach(stream::onNext);
        waiting.clear();
        return new StreamObserver<Request>() {
            @Override
            public void onNext(Request request) {}

            @Override
            public void onError(Throwable error) {}

            @Override
            public void onCompleted() {}
        };
    }

    private static RequestData textIn(Request request) {
        return request.getListList().stream().filter(one -> one.getKey().equals("text")).findFirst().orElse(null);
    }

    /** Sends a result; the stream takes one at a time. */
    private synchronized void send(String tag, RequestData text) {
        String upper = text.getData().toStringUtf8().toUpperCase(Locale.ROOT);
        ResponseData data = ResponseData.newBuilder()
            .setKey("upper")
            .setType(DATA_TEXT)
            .setStatus(text.getStatus())
            .setData(ByteString.copyFromUtf8(upper))
            .build();
        Response result = Response.newBuilder().setTag(tag).addList(data).build();
        if (results == null) {
            waiting.add(result);
        } else {
            results.onNext(result);
        }
    }

    private static <T> void answer(StreamObserver<T> response, T message) {
        response.onNext(message);
        response.onCompleted();
    }
}
