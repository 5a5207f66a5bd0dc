package functions;

import com.amazonaws.services.lambda.runtime.Context;
import com.amazonaws.services.lambda.runtime.RequestHandler;
import java.util.Map;

/** A handler of maps: answers its event, or does what it says. */
public class Echo implements RequestHandler<Map<String, Object>, Object> {
    private static int calls;

    @Override
    public Object handleRequest(Map<String, Object> event, Context context) {
        calls++;
        String what = String.valueOf(event.getOrDefault("do", "echo"));
        switch (what) {
            case "throw":
                throw new IllegalStateException("not now", new RuntimeException("the cause"));
            case "exit":
                System.exit(7);
                return null;
            case "sleep":
                pause(((Number) event.get("ms")).longValue());
                return calls;
            case "fill":
                byte[][] held = new byte[100_000][];
                for (int index = 0; index < held.length; index++) held[index] = new byte[1 << 20];
                return held.length;
            case "large":
                return "x".repeat(((Number) event.get("bytes")).intValue());
            case "print":
                System.out.println("from out");
                System.err.println("from err");
                context.getLogger().log("from the logger\n");
                return calls;
            default:
                return event;
        }
    }

    private static void pause(long ms) {
        try {
            Thread.sleep(ms);
        } catch (InterruptedException interrupted) {
            throw new IllegalStateException(interrupted);
        }
    }
}
