import com.amazonaws.services.lambda.runtime.Context;
import com.amazonaws.services.lambda.runtime.RequestHandler;
import java.util.Map;

/** The handler that the platform and the bare server both run. */
public class Hello implements RequestHandler<Map<String, Object>, Map<String, Object>> {
    @Override
    public Map<String, Object> handleRequest(Map<String, Object> event, Context context) {
        return Map.of(
            "statusCode", 200, "headers", Map.of("content-type", "application/json"), "body", "{\"message\": \"hello\"}");
    }
}
