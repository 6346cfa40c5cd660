package cairn;

import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.lang.reflect.Field;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import org.apache.rocketmq.tools.command.MQAdminStartup;
import org.apache.rocketmq.tools.command.SubCommand;

/** The real mqadmin, in this process: a process for each subcommand would take a second each. */
final class Mqadmin {
    private Mqadmin() {
    }

    /** The subcommands that mqadmin has. */
    static List<SubCommand> subcommands() throws ReflectiveOperationException {
        List<SubCommand> list = registered();
        list.clear();
        MQAdminStartup.initCommand();
        return List.copyOf(list);
    }

    @SuppressWarnings("unchecked")
    private static List<SubCommand> registered() throws ReflectiveOperationException {
        Field f = MQAdminStartup.class.getDeclaredField("SUB_COMMANDS");
        f.setAccessible(true);
        return (List<SubCommand>) f.get(null);
    }

    /**
     * Runs a subcommand and returns what it prints. With until it is run again, for up to 30 s, as long as that is not found in
     * what it prints; one that goes on until somebody stops it is stopped 3 s after it is found.
     */
    static String run(String[] words, Pattern until) throws Exception {
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(30);
        while (true) {
            String printed = once(words, until, end);
            if (until == null || until.matcher(printed).find() || System.nanoTime() > end) {
                return printed;
            }
            TimeUnit.MILLISECONDS.sleep(200);
        }
    }

    private static String once(String[] words, Pattern until, long end) throws Exception {
        registered().clear(); // each run registers them again, and some are good for one run only
        PrintStream out = System.out;
        PrintStream err = System.err;
        ByteArrayOutputStream printed = new ByteArrayOutputStream();
        PrintStream both = new PrintStream(printed, true, StandardCharsets.UTF_8);
        System.setOut(both);
        System.setErr(both);
        try {
            Thread command = new Thread(() -> MQAdminStartup.main0(words.clone(), null), "mqadmin " + words[0]);
            command.start();
            long stop = end;
            while (command.isAlive()) {
                command.join(50);
                hurry(command);
                if (stop == end && until != null && until.matcher(printed.toString(StandardCharsets.UTF_8)).find()) {
                    stop = System.nanoTime() + TimeUnit.SECONDS.toNanos(3);
                }
                if (command.isAlive() && System.nanoTime() > stop) {
                    String text = printed.toString(StandardCharsets.UTF_8);
                    command.interrupt();
                    command.join(60_000);
                    return text;
                }
            }
            return printed.toString(StandardCharsets.UTF_8);
        } finally {
            System.setOut(out);
            System.setErr(err);
        }
    }

    /**
     * A client's thread for events looks every 3 s whether it is to stop. When a subcommand does nothing but wait for that, it is told
     * to look now; those of other clients wait again.
     */
    private static void hurry(Thread command) {
        boolean stops = Stream.of(command.getStackTrace()).anyMatch(f -> f.getClassName().endsWith("ServiceThread") && f.getMethodName().equals("shutdown"));
        if (stops) {
            Thread.getAllStackTraces().keySet().stream().filter(t -> t.getName().equals("NettyEventExecutor")).forEach(Thread::interrupt);
        }
    }
}
