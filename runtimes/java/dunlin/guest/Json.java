package dunlin.guest;

import com.amazonaws.services.lambda.runtime.serialization.PojoSerializer;
import com.amazonaws.services.lambda.runtime.serialization.factories.JacksonFactory;
import java.util.Map;

/** JSON by the runtime's own serialization. */
final class Json {
    @SuppressWarnings("rawtypes")
    private static final PojoSerializer<Map> MAPS = JacksonFactory.getInstance().getSerializer(Map.class);

    private Json() {}

    /** An object of the platform's. */
    @SuppressWarnings("unchecked")
    static Map<String, Object> object(String text) {
        return MAPS.fromJson(text);
    }
}
