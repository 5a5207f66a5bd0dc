package functions;

import com.amazonaws.services.lambda.runtime.Context;
import com.amazonaws.services.lambda.runtime.RequestHandler;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;

/** The probe in Java: does what its event says, as {@code tests/sdk/behaviour/__init__.py} describes it. */
public class Probe implements RequestHandler<Object, Object> {
    /** What it throws when asked to. */
    public static class ProbeError extends RuntimeException {
        ProbeError(String message) {
            super(message);
        }
    }

    private static final String WHO = UUID.randomUUID().toString();
    private static int calls;

    public Probe() {
        String what = String.valueOf(System.getenv("PROBE_INIT"));
        if (what.equals("raise")) throw new ProbeError("at the start");
        if (what.equals("exit")) System.exit(5);
        if (what.equals("hang")) pause(60_000);
    }

    @Override
    public Object handleRequest(Object in, Context context) {
        calls++;
        if (!(in instanceof Map)) return in;
        Map<?, ?> event = (Map<?, ?>) in;
        if (event.containsKey("requestContext")) return proxied(event.get("body"));
        String what = String.valueOf(event.get("do"));
        if (List.of("raise", "exit", "signal", "spin", "allocate").contains(what)) System.out.println("at " + WHO);
        switch (what) {
            case "raise":
                throw new ProbeError((String) event.get("message"));
            case "exit":
                System.exit(number(event, "code"));
                return null;
            case "signal":
                kill(number(event, "number"));
                return null;
            case "allocate":
                List<byte[]> held = new ArrayList<>();
                while (true) held.add(new byte[1 << 20]);
            case "spin":
                while (true) Thread.onSpinWait();
            case "sleep":
                pause(number(event, "ms"));
                return state();
            case "count":
                return state();
            case "environment":
                return System.getenv();
            case "context":
                return facts(context);
            case "print":
                for (Object line : (List<?>) event.get("lines")) System.out.println(line);
                System.err.println("to stderr");
                return null;
            case "large":
                return "x".repeat(number(event, "bytes"));
            case "files":
                return files();
            default:
                return in;
        }
    }

    private static int number(Map<?, ?> event, String name) {
        return ((Number) event.get(name)).intValue();
    }

    private static Map<String, Object> state() {
        return Map.of("who", WHO, "calls", calls);
    }

    private static Map<String, Object> proxied(Object body) {
        Map<String, String> headers = Map.of("content-type", "application/octet-stream");
        return Map.of("statusCode", 200, "headers", headers, "isBase64Encoded", true, "body", body);
    }

    private static void kill(int signal) {
        try {
            new ProcessBuilder("/bin/sh", "-c", "kill -" + signal + " " + ProcessHandle.current().pid()).start().waitFor();
            Thread.sleep(5_000);
        } catch (IOException | InterruptedException error) {
            throw new IllegalStateException(error);
        }
    }

    private static void pause(long ms) {
        try {
            Thread.sleep(ms);
        } catch (InterruptedException interrupted) {
            throw new IllegalStateException(interrupted);
        }
    }

    private static Map<String, Object> facts(Context context) {
        Map<String, Object> facts = new LinkedHashMap<>();
        facts.put("id", context.getAwsRequestId());
        facts.put("name", context.getFunctionName());
        facts.put("version", context.getFunctionVersion());
        facts.put("memory", String.valueOf(context.getMemoryLimitInMB()));
        facts.put("arn", context.getInvokedFunctionArn());
        facts.put("group", context.getLogGroupName());
        facts.put("stream", context.getLogStreamName());
        facts.put("left", context.getRemainingTimeInMillis());
        facts.put("client", context.getClientContext() == null ? null : context.getClientContext().getCustom());
        return facts;
    }

    private static Map<String, Object> files() {
        try {
            Path notes = Path.of("/tmp/notes");
            Files.writeString(notes, "x", StandardOpenOption.CREATE, StandardOpenOption.APPEND);
            boolean refused = false;
            try {
                Files.writeString(Path.of("/var/task/new"), "");
            } catch (IOException error) {
                refused = true;
            }
            String data = Files.readString(Path.of("/var/task/data.txt"));
            String folder = Path.of("").toAbsolutePath().toString();
            return Map.of("who", WHO, "folder", folder, "notes", Files.size(notes), "refused", refused, "data", data);
        } catch (IOException error) {
            throw new IllegalStateException(error);
        }
    }
}
