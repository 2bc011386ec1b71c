import java.io.IOException;
import java.io.InputStream;
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
import java.security.GeneralSecurityException;
import java.security.KeyStore;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.time.Duration;
import java.util.Arrays;
import java.util.UUID;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/**
 * The three steps of a client with Java's HttpClient: list the tasks, download the tool, upload each report.
 *
 * <pre>java JavaClient.java URL CERTIFICATE TOOL REPORT...</pre>
 *
 * CERTIFICATE is the authority to trust, in PEM ('' for Java's own list); TOOL is where the tool is saved.
 */
public class JavaClient {
    public static void main(String[] arguments) throws Exception {
        try {
            Path[] files = Arrays.stream(arguments).skip(2).map(Path::of).toArray(Path[]::new);
            new JavaClient(arguments[0], arguments[1]).run(files[0], Arrays.copyOfRange(files, 1, files.length));
            System.out.println("ok");
        } catch (IOException | GeneralSecurityException error) {
            System.err.println("JavaClient: " + error);
            System.exit(1);
        }
    }

    private final String api;
    private final HttpClient client;

    JavaClient(String url, String certificate) throws GeneralSecurityException, IOException {
        api = url + "/xyz/api/cleaner/tasks";
        SSLContext context = certificate.isEmpty() ? SSLContext.getDefault() : trusting(Path.of(certificate));
        client = HttpClient.newBuilder().sslContext(context).build();
    }

    void run(Path tool, Path... reports) throws IOException, InterruptedException {
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

    private HttpRequest.Builder request(String path) {
        return HttpRequest.newBuilder(URI.create(api + path)).timeout(Duration.ofSeconds(30));
    }

    private <T> T send(HttpRequest.Builder request, BodyHandler<T> handler) throws IOException, InterruptedException {
        HttpResponse<T> answer = client.send(request.build(), handler);
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

    /** What `keytool -importcert` does for all programs, done for this client alone. */
    private static SSLContext trusting(Path certificate) throws GeneralSecurityException, IOException {
        KeyStore authorities = KeyStore.getInstance(KeyStore.getDefaultType());
        authorities.load(null, null);
        try (InputStream pem = Files.newInputStream(certificate)) {
            Certificate authority = CertificateFactory.getInstance("X.509").generateCertificate(pem);
            authorities.setCertificateEntry("cleaner-test-server", authority);
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(authorities);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        return context;
    }
}
