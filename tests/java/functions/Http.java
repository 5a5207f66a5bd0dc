package functions;

import com.amazonaws.services.lambda.runtime.Context;
import com.amazonaws.services.lambda.runtime.RequestHandler;
import com.amazonaws.services.lambda.runtime.events.APIGatewayV2HTTPEvent;
import com.amazonaws.services.lambda.runtime.events.APIGatewayV2HTTPResponse;
import com.amazonaws.services.lambda.runtime.events.SQSEvent;
import java.util.Map;

/** Classes of AWS's own for events. */
public class Http implements RequestHandler<APIGatewayV2HTTPEvent, APIGatewayV2HTTPResponse> {
    @Override
    public APIGatewayV2HTTPResponse handleRequest(APIGatewayV2HTTPEvent event, Context context) {
        String method = event.getRequestContext().getHttp().getMethod();
        return APIGatewayV2HTTPResponse.builder()
            .withStatusCode(201)
            .withHeaders(Map.of("x-method", method))
            .withBody(event.getRawPath() + "?" + event.getRawQueryString() + " " + event.getBody())
            .build();
    }

    public String messages(SQSEvent event) {
        SQSEvent.SQSMessage first = event.getRecords().get(0);
        return first.getMessageId() + " " + first.getBody() + " " + first.getEventSourceArn();
    }
}
