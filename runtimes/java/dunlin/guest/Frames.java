package dunlin.guest;

import com.amazonaws.services.lambda.runtime.api.client.logging.LambdaContextLogger;
import com.amazonaws.services.lambda.runtime.api.client.runtimeapi.DtoSerializers;
import com.amazonaws.services.lambda.runtime.api.client.runtimeapi.LambdaError;
import com.amazonaws.services.lambda.runtime.api.client.runtimeapi.LambdaRuntimeApiClient;
import com.amazonaws.services.lambda.runtime.api.client.runtimeapi.dto.InvocationRequest;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Map;

/**
 * The Runtime API as the runtime client sees it, over frames.
 *
 * An answer is sent when the next event is asked for: what the client logs of an error comes before it, so that it belongs
 * to the call that it is about.
 */
final class Frames implements LambdaRuntimeApiClient {
    /** Most bytes of an answer: 6 MiB and what Lambda allows beyond. */
    private static final int PAYLOAD_BYTES_MAX = 6_291_556;

    private final Channel channel;
    private boolean ready;
    private long begunNs;
    private byte[][] answer;
    private int answerKind;

    Frames(Channel channel) {
        this.channel = channel;
    }

    @Override
    public InvocationRequest nextInvocation() throws IOException {
        if (!ready) {
            ready = true;
            channel.write(Channel.READY);
        }
        send();
        Channel.Frame frame = channel.read();
        // The platform wants no more of this environment.
        if (frame == null) Runtime.getRuntime().halt(0);
        if (frame.kind != Channel.INVOKE) throw new IOException("unexpected frame of kind " + frame.kind);
        begunNs = System.nanoTime();
        return request(frame.body);
    }

    private static InvocationRequest request(byte[] body) {
        int metaEnd = 4 + Channel.number(body, 0);
        Map<String, Object> meta = Json.object(new String(body, 4, metaEnd - 4, StandardCharsets.UTF_8));
        InvocationRequest request = new InvocationRequest();
        request.setId((String) meta.get("requestId"));
        request.setDeadlineTimeInMs(((Number) meta.get("deadlineMs")).longValue());
        request.setInvokedFunctionArn((String) meta.get("functionArn"));
        request.setXrayTraceId((String) meta.get("traceId"));
        request.setClientContext((String) meta.get("clientContext"));
        request.setCognitoIdentity((String) meta.get("identity"));
        request.setTenantId((String) meta.get("tenantId"));
        request.setContent(Arrays.copyOfRange(body, metaEnd, body.length));
        return request;
    }

    @Override
    public InvocationRequest nextInvocationWithExponentialBackoff(LambdaContextLogger logger) throws IOException {
        return nextInvocation();
    }

    @Override
    public void reportInvocationSuccess(String id, byte[] payload) {
        if (payload.length > PAYLOAD_BYTES_MAX) {
            String words = "Response payload size exceeded maximum allowed payload size (" + PAYLOAD_BYTES_MAX + " bytes).";
            String document = "{\"errorType\":\"Function.ResponseSizeTooLarge\",\"errorMessage\":\"" + words + "\"}";
            keep(Channel.ERROR, document.getBytes(StandardCharsets.UTF_8));
            return;
        }
        byte[] head = new byte[8];
        long us = (System.nanoTime() - begunNs) / 1_000;
        Channel.put(head, 0, (int) Math.min(us, Integer.MAX_VALUE));
        keep(Channel.RESPONSE, head, payload);
    }

    @Override
    public void reportInvocationError(String id, LambdaError error) {
        keep(Channel.ERROR, DtoSerializers.serialize(error.errorRequest));
    }

    @Override
    public void reportInitError(LambdaError error) throws IOException {
        channel.write(Channel.INIT_ERROR, DtoSerializers.serialize(error.errorRequest));
    }

    /** There is no snapshot: what was initialised is what goes on. */
    @Override
    public void restoreNext() {}

    @Override
    public void reportRestoreError(LambdaError error) throws IOException {
        reportInitError(error);
    }

    private void keep(int kind, byte[]... body) {
        answerKind = kind;
        answer = body;
    }

    private void send() throws IOException {
        byte[][] body = answer;
        answer = null;
        if (body != null) channel.write(answerKind, body);
    }

    /** Sends what is kept, as this process ends: no other call may come to it. */
    void end() throws IOException {
        if (answerKind == Channel.ERROR) answerKind = Channel.INIT_ERROR;
        send();
    }
}
