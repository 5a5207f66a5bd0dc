package dunlin.guest;

import com.amazonaws.services.lambda.runtime.Context;
import com.amazonaws.services.lambda.runtime.LambdaRuntime;
import com.amazonaws.services.lambda.runtime.RequestHandler;
import com.amazonaws.services.lambda.runtime.api.client.HandlerInfo;
import com.amazonaws.services.lambda.runtime.api.client.UserFault;
import com.amazonaws.services.lambda.runtime.api.client.logging.LambdaContextLogger;
import com.amazonaws.services.lambda.runtime.api.client.runtimeapi.DtoSerializers;
import com.amazonaws.services.lambda.runtime.api.client.runtimeapi.converters.LambdaErrorConverter;
import com.amazonaws.services.lambda.runtime.api.client.runtimeapi.converters.XRayErrorCauseConverter;
import com.amazonaws.services.lambda.runtime.api.client.util.ConcurrencyConfig;
import com.amazonaws.services.lambda.runtime.api.client.util.UnsafeUtil;
import com.amazonaws.services.lambda.runtime.logging.LogFormat;
import com.amazonaws.services.lambda.runtime.logging.LogLevel;
import com.amazonaws.services.lambda.runtime.serialization.PojoSerializer;
import com.amazonaws.services.lambda.runtime.serialization.factories.JacksonFactory;
import com.amazonaws.services.lambda.runtime.serialization.util.ReflectUtil;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.IOError;
import java.io.IOException;
import java.io.InputStream;
import java.lang.reflect.ParameterizedType;
import java.lang.reflect.Type;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.Security;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.Enumeration;
import java.util.List;
import java.util.Map;
import java.util.ServiceLoader;
import java.util.TreeMap;
import java.util.jar.JarEntry;
import java.util.jar.JarFile;
import java.util.stream.Stream;
import software.amazon.awssdk.utilslite.SdkInternalThreadLocal;

/**
 * Runs what every load and every first call runs, so that classes are loaded, linked and, where they may be, initialised
 * before anybody waits. Nothing of it is left but those. What reads variables when it is initialised is only linked.
 */
final class Rehearsal {
    /** Where the client's own classes are; none below it is initialised here by its name alone. */
    private static final String CLIENT = "com/amazonaws/services/lambda/";

    private static String place;

    private Rehearsal() {}

    /** What functions exchange: members of the kinds that there are. */
    public static final class Bean {
        private String name;
        private int number;
        private List<String> list;
        private Map<String, Object> map;

        public String getName() {
            return name;
        }

        public void setName(String name) {
            this.name = name;
        }

        public int getNumber() {
            return number;
        }

        public void setNumber(int number) {
            this.number = number;
        }

        public List<String> getList() {
            return list;
        }

        public void setList(List<String> list) {
            this.list = list;
        }

        public Map<String, Object> getMap() {
            return map;
        }

        public void setMap(Map<String, Object> map) {
            this.map = map;
        }
    }

    /** A handler like others. */
    public static final class Handler implements RequestHandler<Map<String, Object>, String> {
        @Override
        public String handleRequest(Map<String, Object> event, Context context) {
            return String.valueOf(event.size());
        }
    }

    /** Finds classes in its own places first, as only functions' are found where they are. */
    private static final class Own extends URLClassLoader {
        Own(URL... places) {
            super(places, Rehearsal.class.getClassLoader());
        }

        @Override
        protected Class<?> loadClass(String name, boolean resolve) throws ClassNotFoundException {
            return name.equals(Handler.class.getName()) ? findClass(name) : super.loadClass(name, resolve);
        }
    }

    static void run() throws Exception {
        Folder.enter(System.getProperty("user.dir"));
        Json.object("{\"environment\":{\"A\":\"1\"},\"deadlineMs\":1700000000000}");
        link(UserFault.class);
        link(LambdaRuntime.class);
        link(Rehearsal.class);
        Variables.add(Map.of("_DUNLIN_REHEARSAL", "1"));
        prepare();
        load();
        exchange();
        fail();
        concatenate("a", 1, 2L, 'c', 1.5, true);
        new ConcurrencyConfig(new LambdaContextLogger(new Log(), LogLevel.UNDEFINED, LogFormat.TEXT));
        TreeMap<String, Integer> sorted = new TreeMap<>(Comparator.<String>naturalOrder().thenComparing(Comparator.reverseOrder()));
        sorted.put("a", 1);
        sorted.forEach((name, number) -> {});
    }

    /** Links every class of the client beside one. Asking for methods does that, and initialises nothing. */
    private static void link(Class<?> one) throws IOException {
        File place = new File(one.getProtectionDomain().getCodeSource().getLocation().getPath());
        if (!place.isFile()) return;
        try (JarFile jar = new JarFile(place)) {
            for (Enumeration<JarEntry> entries = jar.entries(); entries.hasMoreElements();) {
                String name = entries.nextElement().getName();
                if (!name.endsWith(".class") || !(name.startsWith(CLIENT) || name.startsWith("dunlin/"))) continue;
                link(name.substring(0, name.length() - ".class".length()).replace('/', '.'));
            }
        }
    }

    private static void link(String name) {
        try {
            Class.forName(name, false, Rehearsal.class.getClassLoader()).getDeclaredMethods();
        } catch (ReflectiveOperationException | LinkageError absent) {
            // It needs what is not there: nobody will use it.
        }
    }

    /** What the client does before it loads a function. */
    private static void prepare() throws ReflectiveOperationException {
        UnsafeUtil.disableIllegalAccessWarning();
        ReflectUtil.setStaticField(Rehearsal.class, "place", true, CLIENT);
        // No further: its work initialises what reads variables.
        Class.forName("com.amazonaws.services.lambda.runtime.api.client.EventHandlerLoader");
        Class.forName("com.amazonaws.services.lambda.runtime.api.client.CustomerClassLoader");
        SdkInternalThreadLocal.put("AWS_LAMBDA_X_TRACE_ID", "");
        SdkInternalThreadLocal.remove("AWS_LAMBDA_X_TRACE_ID");
        new IOError(null);
        // The client sets this one, whatever it is, and the first that is set brings much of the JDK's own logging with it.
        String algorithms = Security.getProperty("jdk.tls.disabledAlgorithms");
        Security.setProperty("jdk.tls.disabledAlgorithms", algorithms == null ? "" : algorithms);
    }

    /** A handler from a folder, as packages are. */
    private static void load() throws Exception {
        Path folder = Files.createTempDirectory("rehearsal");
        String name = Handler.class.getName().replace('.', '/') + ".class";
        Path file = folder.resolve(name);
        Files.createDirectories(file.getParent());
        try (InputStream in = Rehearsal.class.getClassLoader().getResourceAsStream(name)) {
            Files.copy(in, file);
        }
        try (Own loader = new Own(folder.toUri().toURL(), new URL("file:/opt/java/lib/none.jar"))) {
            HandlerInfo handler = HandlerInfo.fromString(Handler.class.getName(), loader);
            handler.clazz.getDeclaredConstructor().newInstance();
            exchange(((ParameterizedType) handler.clazz.getGenericInterfaces()[0]).getActualTypeArguments()[0], "{\"a\":1}");
            for (Handler none : ServiceLoader.load(Handler.class, loader)) throw new IllegalStateException(none.toString());
        }
        try (Stream<Path> all = Files.walk(folder)) {
            for (Path path : (Iterable<Path>) all.sorted(Comparator.reverseOrder())::iterator) Files.delete(path);
        }
    }

    private static void exchange() {
        String text = "{\"name\":\"\\u00e9\",\"number\":1,\"list\":[\"a\"],\"map\":{\"b\":[1.5,null,true]},\"more\":{}}";
        exchange(Bean.class, text);
        exchange(Map.class, text);
        exchange(List.class, "[" + text + "]");
        exchange(String.class, "\"a\"");
        exchange(Object.class, text);
    }

    private static void exchange(Class<?> type, String text) {
        exchange(JacksonFactory.getInstance().getSerializer(type), text);
    }

    private static void exchange(Type type, String text) {
        exchange(JacksonFactory.getInstance().getSerializer(type), text);
    }

    private static <T> void exchange(PojoSerializer<T> serializer, String text) {
        T value = serializer.fromJson(new ByteArrayInputStream(text.getBytes(StandardCharsets.UTF_8)));
        serializer.toJson(value, new ByteArrayOutputStream());
    }

    private static void fail() {
        Exception error = UserFault.filterStackTrace(new IllegalStateException("rehearsal"));
        UserFault.makeUserFault(error).reportableError();
        DtoSerializers.serialize(LambdaErrorConverter.fromThrowable(error));
        XRayErrorCauseConverter.fromThrowable(error);
    }

    /** Every shape of a concatenation is made on its first use, from parts that most of them share. */
    private static List<String> concatenate(Object a, int b, long c, char d, double e, boolean f) {
        List<String> made = new ArrayList<>();
        String s = String.valueOf(a);
        made.add("x" + s);
        made.add(s + "x");
        made.add(s + s);
        made.add("x" + s + "x");
        made.add("x" + s + "x" + s);
        made.add("x" + s + "x" + s + "x");
        made.add("x" + s + "x" + s + "x" + s);
        made.add("x" + s + "x" + s + "x" + s + "x" + s);
        made.add("x" + b);
        made.add("x" + s + "x" + b);
        made.add("x" + s + "x" + s + "x" + s + "x" + b);
        made.add("x" + b + "x" + s);
        made.add("x" + c);
        made.add("x" + d + s);
        made.add("x" + e);
        made.add("x" + f);
        made.add("x" + a);
        made.add("x" + a + "x" + a);
        made.add(Arrays.toString(new int[] {b}));
        return made;
    }
}
