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
            case "print":
                System.out.println("from out");
                System.err.println("from err");
                context.getLogger().log("from the logger\n");
                System.out.print("begun");
                context.getLogger().log("one\ntwo\r\nthree");
                return calls;
            default:
                return event;
        }
    }
}
