package dunlin.guest;

import com.amazonaws.services.lambda.runtime.api.client.AWSLambda;
import com.amazonaws.services.lambda.runtime.api.client.LambdaEnvironment;
import com.amazonaws.services.lambda.runtime.api.client.LambdaRequestHandler;
import com.amazonaws.services.lambda.runtime.api.client.logging.LambdaContextLogger;
import com.amazonaws.services.lambda.runtime.api.client.runtimeapi.LambdaRuntimeApiClient;
import com.amazonaws.services.lambda.runtime.api.client.util.ConcurrencyConfig;
import com.amazonaws.services.lambda.runtime.logging.LogFormat;
import com.amazonaws.services.lambda.runtime.logging.LogLevel;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;

/** One function's life, by the runtime client. */
final class Serving extends AWSLambda {
    private Serving() {}

    /** Loads the function and answers its events until the platform closes the channel. */
    static void run(Channel channel, String name) throws Throwable {
        Frames frames = new Frames(channel);
        LogLevel level = LogLevel.fromString(LambdaEnvironment.LAMBDA_LOG_LEVEL);
        LogFormat format = LogFormat.fromString(LambdaEnvironment.LAMBDA_LOG_FORMAT);
        LambdaContextLogger logger = new LambdaContextLogger(new Log(), level, format);
        LambdaRequestHandler handler = (LambdaRequestHandler)
            client("getLambdaRequestHandlerObject", String.class, name, LambdaContextLogger.class, logger,
                LambdaRuntimeApiClient.class, frames);
        startRuntimeLoops(handler, logger, new ConcurrencyConfig(logger), frames);
        // It returns after an error that the process cannot go on from.
        frames.end();
        Runtime.getRuntime().exit(1);
    }

    /** Calls a step of the client's `main`, which cannot be had with another Runtime API. Arguments come after their types. */
    private static Object client(String step, Object... arguments) throws Throwable {
        Class<?>[] types = new Class<?>[arguments.length / 2];
        Object[] values = new Object[types.length];
        for (int index = 0; index < types.length; index++) {
            types[index] = (Class<?>) arguments[2 * index];
            values[index] = arguments[2 * index + 1];
        }
        Method method = AWSLambda.class.getDeclaredMethod(step, types);
        method.setAccessible(true);
        try {
            return method.invoke(null, values);
        } catch (InvocationTargetException error) {
            throw error.getCause();
        }
    }
}
