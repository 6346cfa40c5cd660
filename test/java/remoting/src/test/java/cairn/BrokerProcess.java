package cairn;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** A Cairn of a test's own, which it may stop and start again. */
class BrokerProcess {
    private final Path log;
    private final List<String> command = new ArrayList<>();
    private Process process;
    private long logged;

    BrokerProcess(Path home, String name, String... more) {
        log = home.resolve(name + ".log");
        command.addAll(List.of(System.getProperty("cairn.bin"), "serve", "--name", name, "--data", home.resolve(name).toString(), "--advertise", "127.0.0.1",
            "--grpc", "off", "--http", "off", "--log-format", "json", "--segment-size", "64MiB"));
        command.addAll(List.of(more));
    }

    void start() throws Exception {
        logged = Files.exists(log) ? Files.size(log) : 0;
        process = new ProcessBuilder(command).redirectErrorStream(true).redirectOutput(ProcessBuilder.Redirect.appendTo(log.toFile())).start();
        RemotingTest.eventually(60, command.get(3) + " is ready", () -> {
            assertTrue(process.isAlive(), this::said);
            return said().contains("\"message\":\"cairn is ready\"");
        });
    }

    private String said() {
        try {
            return Files.readString(log).substring((int) logged);
        } catch (java.io.IOException e) {
            throw new IllegalStateException(e);
        }
    }

    /** The address of a door, as the broker says it when it is ready. */
    String address(String door) {
        Matcher m = Pattern.compile("\"" + door + "\":\"([^\"]*)\"[^\n]*cairn is ready").matcher(said());
        assertTrue(m.find(), this::said);
        return m.group(1);
    }

    /** Stops it as an operator does, who lets it finish. */
    void stop() throws Exception {
        process.destroy();
        assertTrue(process.waitFor(30, TimeUnit.SECONDS), "it did not stop");
        assertEquals(0, process.exitValue(), this::said);
    }

    void kill() {
        if (process != null) {
            process.destroyForcibly();
        }
    }
}
