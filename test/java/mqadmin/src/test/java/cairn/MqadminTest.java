package cairn;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;
import org.apache.rocketmq.tools.command.SubCommand;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;
import org.junit.jupiter.api.io.TempDir;

/**
 * Plays the transcript, in which every subcommand of mqadmin is run. What Java RocketMQ prints is in it, too, where it is something
 * else, so that what it does not say is the same in both.
 */
class MqadminTest {
    private static final Path TRANSCRIPT = Path.of(System.getProperty("basedir"), "src/test/resources/mqadmin.txt");
    private static final boolean JAVA = "java".equals(System.getProperty("mqadmin.server"));
    private static final boolean REWRITE = System.getProperty("rewrite") != null;
    @TempDir
    static Path home;
    private static final Words words = new Words();
    private static List<Step> steps;
    private static Server server;
    private static Scene scene;

    @BeforeAll
    static void start() throws Exception {
        steps = Step.read(TRANSCRIPT);
        server = JAVA ? Server.java(home) : Server.cairn(home);
        words.set("BROKER", server.broker);
        words.set("NAMESERVER", server.nameserver);
        words.set("DIR", Files.createDirectory(home.resolve("files")).toString());
        words.set("TMP", System.getProperty("java.io.tmpdir"));
        scene = new Scene(words, server.nameserver, Path.of(words.get("DIR")));
        System.setProperty("rocketmq.namesrv.addr", server.nameserver);
    }

    @AfterAll
    static void stop() throws Exception {
        scene.close();
        server.close();
    }

    @TestFactory
    List<DynamicTest> subcommands() throws Exception {
        Set<String> untried = Mqadmin.subcommands().stream().map(SubCommand::commandName).collect(Collectors.toCollection(TreeSet::new));
        List<DynamicTest> tests = new ArrayList<>();
        for (Step step : steps) {
            if (!step.line.isEmpty()) {
                tests.add(DynamicTest.dynamicTest(step.line, () -> play(step)));
                untried.remove(step.command());
            }
        }
        tests.add(DynamicTest.dynamicTest("every subcommand is tried", () -> assertEquals(Set.of(), untried)));
        tests.add(DynamicTest.dynamicTest("what differs has a reason", MqadminTest::reasons));
        if (REWRITE) {
            tests.add(DynamicTest.dynamicTest("the transcript is written anew", () -> Step.write(TRANSCRIPT, steps)));
        }
        tests.add(DynamicTest.dynamicTest("the table in docs/compatibility.md", MqadminTest::page));
        return tests;
    }

    private static void play(Step step) throws Exception {
        String[] line = words.fill(step.line);
        if (step.isVerb()) {
            scene.play(line);
            return;
        }
        String printed = line[0].equals("show") ? Files.readString(Path.of(line[1])) : Mqadmin.run(line, step.until);
        if (step.until != null) {
            assertTrue(step.until.matcher(printed).find(), () -> "not within 30 s: " + step.until + " in\n" + printed);
        }
        String answer = words.normal(step, printed);
        if (REWRITE) {
            step.setAnswer(JAVA, answer);
            return;
        }
        assertEquals(step.answer(JAVA), answer, () -> "all that it printed:\n" + printed);
        assertFalse(answer.isEmpty() && !printed.isBlank(), () -> "nothing of what it printed is looked at:\n" + printed);
    }

    private static void reasons() {
        for (Step s : steps) {
            assertEquals(s.twofold() && s.absent == null, s.differs != null, () -> s.line + ": answers that differ, and only these, have a reason");
        }
    }

    private static void page() throws ReflectiveOperationException, IOException {
        Path page = Path.of(System.getProperty("cairn.page"));
        String old = Files.readString(page);
        String now = Page.with(old, Mqadmin.subcommands(), steps);
        if (REWRITE && !JAVA) {
            Files.writeString(page, now);
        } else {
            assertEquals(now, old, "docs/compatibility.md: MVN_ARGS=-Drewrite test/java/run.sh mqadmin");
        }
    }
}
