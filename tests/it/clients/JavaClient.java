import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandler;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Arrays;
import java.util.UUID;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * The three steps of a client with Java's HttpClient: list the tasks, download the tool, upload each report.
 *
 * <pre>java JavaClient.java TOOL REPORT...</pre>
 *
 * TOOL is where the tool is saved. The environment says where the server is (CLEANER_URL), and whom Java trusts.
 */
public class JavaClient {
    private static final String API = System.getenv("CLEANER_URL") + "/xyz/api/cleaner/tasks";
    private static final HttpClient CLIENT = HttpClient.newHttpClient();

    public static void main(String[] arguments) throws Exception {
        try {
            Path[] files = Arrays.stream(arguments).map(Path::of).toArray(Path[]::new);
            run(files[0], Arrays.copyOfRange(files, 1, files.length));
            System.out.println("ok");
        } catch (IOException error) {
            System.err.println("JavaClient: " + error);
            System.exit(1);
        }
    }

    private static void run(Path tool, Path... reports) throws IOException, InterruptedException {
        String tasks = send(request(""), BodyHandlers.ofString());
        // Java has no JSON parser of its own, and the first number is all that is needed here.
        Matcher id = Pattern.compile("\"id\":\\s*(\\d+)").matcher(tasks);
        if (!id.find()) {
            throw new IOException("no task is listed: " + tasks);
        }

        send(request("/download?id=" + id.group(1)), BodyHandlers.ofFile(tool));

        for (Path report : reports) {
            String boundary = UUID.randomUUID().toString();
            HttpRequest.Builder upload = request("/report?id=" + id.group(1))
                    .header("Content-Type", "multipart/form-data; boundary=" + boundary)
                    .POST(multipart(report, boundary));
            String answer = send(upload, BodyHandlers.ofString());
            if (!Pattern.compile("\"status\":\\s*\"PASSED\"").matcher(answer).find()) {
                throw new IOException(report + " has not passed: " + answer);
            }
        }
    }

    private static HttpRequest.Builder request(String path) {
        return HttpRequest.newBuilder(URI.create(API + path)).timeout(Duration.ofSeconds(20));
    }

    private static <T> T send(HttpRequest.Builder request, BodyHandler<T> handler) throws IOException, InterruptedException {
        HttpResponse<T> answer = CLIENT.send(request.build(), handler);
        if (answer.statusCode() != 200) {
            throw new IOException(answer.uri() + " answers " + answer.statusCode() + ": " + answer.body());
        }
        return answer.body();
    }

    private static BodyPublisher multipart(Path file, String boundary) throws IOException {
        String head = "--" + boundary + "\r\n"
                + "Content-Disposition: form-data; name=\"file\"; filename=\"" + file.getFileName() + "\"\r\n"
                + "Content-Type: application/zip\r\n"
                + "\r\n";
        String tail = "\r\n--" + boundary + "--\r\n";
        return BodyPublishers.concat(
                BodyPublishers.ofString(head), BodyPublishers.ofFile(file), BodyPublishers.ofString(tail));
    }
}
