package hello;

import com.amazonaws.services.lambda.runtime.Context;
import com.amazonaws.services.lambda.runtime.RequestHandler;
import java.util.Map;

public class Handler implements RequestHandler<Map<String, Object>, Map<String, Object>> {
    @Override
    public Map<String, Object> handleRequest(Map<String, Object> event, Context context) {
        Object query = event.getOrDefault("queryStringParameters", event);
        Object name = query instanceof Map ? ((Map<?, ?>) query).get("name") : null;
        context.getLogger().log("greeting " + name);
        return Map.of("message", "Hello, " + (name == null ? "world" : name) + "!");
    }
}
