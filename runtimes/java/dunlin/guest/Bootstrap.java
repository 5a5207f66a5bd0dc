package dunlin.guest;

import java.nio.charset.StandardCharsets;
import java.util.Map;

/**
 * The managed Java guest: the runtime client that AWS runs itself (aws-lambda-java-runtime-interface-client), whose Runtime
 * API is a channel of frames (crates/compute/src/guest_protocol.rs), in a process that may have been booted before its
 * function was known.
 *
 * Invariants
 *   1. The client's classes that look at variables when they are initialised (AWSLambda, LambdaEnvironment) are not touched
 *      before LOAD has brought the function's.
 *   2. Every INVOKE is answered by exactly one RESPONSE or ERROR, or the process ends.
 *   3. Nothing but frames is written to descriptor 3.
 *
 * Start reading at `main`. Beside it: Channel (frames), Frames (the Runtime API), Serving (the client's life), Log,
 * Variables, Folder, Rehearsal.
 */
public final class Bootstrap {
    private static final String AHEAD = "_DUNLIN_AHEAD";

    private Bootstrap() {}

    @SuppressWarnings("unchecked")
    public static void main(String[] arguments) throws Throwable {
        Channel channel = new Channel();
        // The platform says so where the function is not known yet, and there is time.
        if (System.getenv(AHEAD) != null) {
            Variables.prepare();
            Rehearsal.run();
        }
        channel.write(Channel.BOOTED);
        Channel.Frame frame = channel.read();
        if (frame == null) return;
        if (frame.kind != Channel.LOAD) throw new IllegalStateException("unexpected frame of kind " + frame.kind);
        Map<String, Object> order = Json.object(new String(frame.body, StandardCharsets.UTF_8));
        Variables.add((Map<String, Object>) order.get("environment"));
        Folder.enter((String) order.get("root"));
        String said = Boolean.TRUE.equals(order.get("wrapped")) ? System.getenv("_HANDLER") : null;
        // What a wrapper has said last.
        Serving.run(channel, said != null ? said : (String) order.get("handler"));
    }
}
