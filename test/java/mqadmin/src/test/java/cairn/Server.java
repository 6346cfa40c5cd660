package cairn;

import java.io.IOException;
import java.net.ServerSocket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** A name server and a broker with nothing in them, in processes of their own: Cairn's or Java RocketMQ's. */
final class Server implements AutoCloseable {
    final String nameserver;
    final String broker;
    private final List<Process> processes = new ArrayList<>();

    static Server cairn(Path home) throws Exception {
        return new Server(home);
    }

    static Server java(Path home) throws Exception {
        return new Server(home, freePort(), freePort());
    }

    private Server(Path home) throws Exception {
        Path log = home.resolve("cairn.log");
        String any = "127.0.0.1:0";
        start(log, System.getProperty("cairn.bin"), "serve", "--data", home.resolve("data").toString(), "--advertise", "127.0.0.1",
            "--nameserver", any, "--remoting", any, "--grpc", any, "--http", any, "--log-format", "json", "--segment-size", "64MiB");
        String ready = said(log, "^.*\"message\":\"cairn is ready\".*$");
        nameserver = field(ready, "nameserver");
        broker = field(ready, "remoting");
    }

    private Server(Path home, int nameserverPort, int brokerPort) throws Exception {
        nameserver = "127.0.0.1:" + nameserverPort;
        broker = "127.0.0.1:" + brokerPort;
        Path names = Files.writeString(home.resolve("namesrv.conf"), "listenPort=" + nameserverPort + "\nkvConfigPath=" + home.resolve("kv.json") + "\n");
        java(home, "org.apache.rocketmq.namesrv.NamesrvStartup", "-c", names.toString());
        Path conf = Files.writeString(home.resolve("broker.conf"), String.join("\n", "brokerClusterName=DefaultCluster", "brokerName=broker-a",
            "brokerId=0", "brokerIP1=127.0.0.1", "listenPort=" + brokerPort, "haListenPort=" + (brokerPort + 1), "namesrvAddr=" + nameserver,
            "storePathRootDir=" + home.resolve("store"), "storePathCommitLog=" + home.resolve("store/commitlog"), "mappedFileSizeCommitLog=16777216",
            "autoCreateTopicEnable=true", "traceTopicEnable=true", "diskMaxUsedSpaceRatio=95", ""));
        java(home, "org.apache.rocketmq.broker.BrokerStartup", "-c", conf.toString());
    }

    private void java(Path home, String main, String... words) throws Exception {
        List<String> command = new ArrayList<>(List.of(Path.of(System.getProperty("java.home"), "bin", "java").toString(), "-Xmx768m",
            "-Duser.home=" + home, "-Drocketmq.home.dir=" + home, "-Drocketmq.log.root=" + home.resolve("logs"), "-cp", System.getProperty("java.class.path"), main));
        command.addAll(List.of(words));
        Path log = home.resolve(main.substring(main.lastIndexOf('.') + 1) + ".out");
        start(log, command.toArray(new String[0]));
        said(log, "boot success");
    }

    private void start(Path log, String... command) throws IOException {
        processes.add(new ProcessBuilder(command).redirectErrorStream(true).redirectOutput(log.toFile()).start());
    }

    private static int freePort() throws IOException {
        try (ServerSocket s = new ServerSocket(0)) {
            return s.getLocalPort();
        }
    }

    private String said(Path log, String what) throws Exception {
        Pattern p = Pattern.compile(what, Pattern.MULTILINE);
        for (long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(90); System.nanoTime() < end; TimeUnit.MILLISECONDS.sleep(50)) {
            String text = Files.readString(log);
            Matcher m = p.matcher(text);
            if (m.find()) {
                return m.group();
            }
            if (!processes.get(processes.size() - 1).isAlive()) {
                break;
            }
        }
        close();
        throw new IllegalStateException("the server did not start:\n" + Files.readString(log));
    }

    private static String field(String json, String name) {
        Matcher m = Pattern.compile("\"" + name + "\":\"([^\"]*)\"").matcher(json);
        if (!m.find()) {
            throw new IllegalStateException("no " + name + " in " + json);
        }
        return m.group(1);
    }

    @Override
    public void close() throws InterruptedException {
        for (int i = processes.size() - 1; i >= 0; i--) {
            processes.get(i).destroy();
            if (!processes.get(i).waitFor(20, TimeUnit.SECONDS)) {
                processes.get(i).destroyForcibly().waitFor();
            }
        }
    }
}
