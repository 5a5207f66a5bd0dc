import com.sun.net.httpserver.HttpServer;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.Map;

/** The bare server: the JDK's own, with the same handler. Takes a port. */
public class HttpJava {
    @SuppressWarnings("unchecked")
    public static void main(String[] arguments) throws Exception {
        int port = Integer.parseInt(arguments[0]);
        HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), port), 0);
        Hello hello = new Hello();
        server.createContext("/", exchange -> {
            Map<String, Object> answer = hello.handleRequest(Map.of(), null);
            byte[] body = ((String) answer.get("body")).getBytes(StandardCharsets.UTF_8);
            ((Map<String, String>) answer.get("headers")).forEach(exchange.getResponseHeaders()::add);
            exchange.sendResponseHeaders((int) answer.get("statusCode"), body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.start();
    }
}
