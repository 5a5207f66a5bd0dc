package dunlin.guest;

import java.io.IOException;
import java.lang.reflect.Field;
import java.util.Map;

/** Variables of a process that runs already. Java reads them once, into a map of its own. */
final class Variables {
    private static Native outside;

    private Variables() {}

    /** Finds what `add` will write, while nothing was changed yet. */
    static void prepare() throws ReflectiveOperationException, IOException {
        outside = Native.find();
    }

    /** Adds variables, or replaces them, and takes away the platform's own. */
    static void add(Map<String, Object> variables) throws ReflectiveOperationException {
        Map<String, String> own = own();
        own.keySet().removeIf(name -> name.startsWith("_DUNLIN_"));
        variables.forEach((name, value) -> own.put(name, (String) value));
        if (outside != null) outside.set(own);
    }

    /** What System.getenv shows, unlocked. The command line opens java.util. */
    @SuppressWarnings("unchecked")
    private static Map<String, String> own() throws ReflectiveOperationException {
        Field inner = System.getenv().getClass().getDeclaredField("m");
        inner.setAccessible(true);
        return (Map<String, String>) inner.get(System.getenv());
    }
}
