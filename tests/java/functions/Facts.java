package functions;

import com.amazonaws.services.lambda.runtime.Context;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.HttpURLConnection;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Handlers that are named with a method. */
public class Facts {
    /** What Java makes of an object. */
    public static class Order {
        private String item;
        private int count;
        private List<String> tags = new ArrayList<>();

        public String getItem() {
            return item;
        }

        public void setItem(String item) {
            this.item = item;
        }

        public int getCount() {
            return count;
        }

        public void setCount(int count) {
            this.count = count;
        }

        public List<String> getTags() {
            return tags;
        }

        public void setTags(List<String> tags) {
            this.tags = tags;
        }
    }

    public Order bean(Order order, Context context) {
        order.setCount(order.getCount() + 1);
        order.getTags().add(context.getFunctionName());
        return order;
    }

    public static String fixed(String text) {
        return text.toUpperCase();
    }

    public Integer number(Integer number) {
        return number * 2;
    }

    public List<Integer> list(List<Integer> numbers) {
        numbers.add(numbers.size());
        return numbers;
    }

    public void nothing(Object event) {}

    public void stream(InputStream in, OutputStream out, Context context) throws IOException {
        out.write("[".getBytes(StandardCharsets.UTF_8));
        in.transferTo(out);
        out.write(("," + context.getRemainingTimeInMillis() + "]").getBytes(StandardCharsets.UTF_8));
    }

    public Map<String, Object> context(Map<String, Object> event, Context context) {
        Map<String, Object> facts = new LinkedHashMap<>();
        facts.put("requestId", context.getAwsRequestId());
        facts.put("function", context.getFunctionName());
        facts.put("version", context.getFunctionVersion());
        facts.put("arn", context.getInvokedFunctionArn());
        facts.put("memory", context.getMemoryLimitInMB());
        facts.put("group", context.getLogGroupName());
        facts.put("stream", context.getLogStreamName());
        facts.put("remaining", context.getRemainingTimeInMillis());
        facts.put("client", context.getClientContext() == null ? null : context.getClientContext().getCustom());
        facts.put("heap", Runtime.getRuntime().maxMemory());
        facts.put("java", System.getProperty("java.specification.version"));
        return facts;
    }

    /** Variables as this process and one that it starts see them. */
    public Map<String, Object> variables(Map<String, String> event) throws IOException {
        String name = event.get("name");
        Process child = new ProcessBuilder("/bin/sh", "-c", "printf %s \"$" + name + "\"").start();
        ByteArrayOutputStream said = new ByteArrayOutputStream();
        child.getInputStream().transferTo(said);
        Map<String, Object> facts = new LinkedHashMap<>();
        facts.put("own", System.getenv(name));
        facts.put("child", said.toString(StandardCharsets.UTF_8));
        facts.put("all", System.getenv().containsKey(name));
        facts.put("platform", System.getenv().keySet().stream().anyMatch(each -> each.startsWith("_DUNLIN_")));
        return facts;
    }

    /** Files of the package and of a layer, found in every way. */
    public Map<String, Object> files(Map<String, String> event) throws IOException {
        Map<String, Object> facts = new LinkedHashMap<>();
        facts.put("directory", new File("").getAbsolutePath());
        try (InputStream in = new java.io.FileInputStream("data/words.txt")) {
            facts.put("io", new String(in.readAllBytes(), StandardCharsets.UTF_8));
        }
        facts.put("nio", Files.readString(Path.of("data/words.txt")));
        facts.put("absolute", new File("data/words.txt").getAbsoluteFile().exists());
        try (InputStream in = Facts.class.getResourceAsStream("/data/words.txt")) {
            facts.put("resource", new String(in.readAllBytes(), StandardCharsets.UTF_8));
        }
        facts.put("layer", classOf("layered.Part"));
        facts.put("library", classOf("bundled.Part"));
        return facts;
    }

    private static String classOf(String name) {
        try {
            return Class.forName(name).getDeclaredConstructor().newInstance().toString();
        } catch (ReflectiveOperationException error) {
            return error.toString();
        }
    }

    /** The platform's own services, over TLS that this process trusts. */
    public int secure(Map<String, String> event) throws IOException {
        HttpURLConnection connection = (HttpURLConnection) new URL(event.get("url")).openConnection();
        return connection.getResponseCode();
    }
}
