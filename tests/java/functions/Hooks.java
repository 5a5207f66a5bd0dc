package functions;

import com.amazonaws.services.lambda.runtime.Context;
import com.amazonaws.services.lambda.runtime.RequestHandler;
import java.util.ArrayList;
import java.util.List;
import org.crac.Core;
import org.crac.Resource;

/** Hooks of a snapshot. */
public class Hooks implements RequestHandler<Object, List<String>>, Resource {
    private final List<String> order = new ArrayList<>();

    public Hooks() {
        Core.getGlobalContext().register(this);
        order.add("init");
    }

    @Override
    public void beforeCheckpoint(org.crac.Context<? extends Resource> context) {
        order.add("before");
    }

    @Override
    public void afterRestore(org.crac.Context<? extends Resource> context) {
        order.add("after");
    }

    @Override
    public List<String> handleRequest(Object event, Context context) {
        order.add(System.getenv("AWS_LAMBDA_INITIALIZATION_TYPE"));
        return order;
    }
}
