package cairn;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Pattern;

/**
 * A step of the transcript. One looks so, and an empty line ends it:
 *
 * <pre>
 * # what it is about
 * topicStatus -t orders        the subcommand with its words; $NAME is a value of the scene. With ! before it a verb of the scene
 * keep ^broker-a               only lines in which this is found
 * hide REGEX                   which differs from run to run
 * sort                         its lines come in no order that one may rely on
 * until REGEX                  run it until this is found
 * absent WHY                   what it is about does not exist here
 * differs WHY                  Java RocketMQ answers something else
 * ----
 * what it prints here
 * ---- java
 * what it prints there, when that is something else
 * </pre>
 */
final class Step {
    final List<String> comments = new ArrayList<>();
    String line = "";
    Pattern keep;
    Pattern hide;
    Pattern until;
    boolean sort;
    String absent;
    String differs;
    private final List<String> directives = new ArrayList<>();
    private String here = "";
    private String java;

    String command() {
        return line.split(" ")[0];
    }

    boolean isVerb() {
        return line.startsWith("!");
    }

    /** What it prints, here or in Java RocketMQ. */
    String answer(boolean javaServer) {
        return javaServer && java != null ? java : here;
    }

    void setAnswer(boolean javaServer, String answer) {
        String other = answer(!javaServer);
        here = javaServer ? other : answer;
        java = javaServer ? answer : other;
        if (here.equals(java)) {
            java = null;
        }
    }

    /** True when the two servers answer otherwise. */
    boolean twofold() {
        return java != null;
    }

    private void directive(String text) {
        directives.add(text);
        String[] words = text.split(" ", 2);
        switch (words[0]) {
            case "keep":
                keep = Pattern.compile(words[1]);
                break;
            case "hide":
                hide = Pattern.compile(words[1]);
                break;
            case "until":
                until = Pattern.compile(words[1]);
                break;
            case "sort":
                sort = true;
                break;
            case "absent":
                absent = words[1];
                break;
            case "differs":
                differs = words[1];
                break;
            default:
                throw new IllegalArgumentException("no directive: " + text);
        }
    }

    static List<Step> read(Path file) throws IOException {
        List<Step> steps = new ArrayList<>();
        Step step = new Step();
        StringBuilder answer = null;
        for (String line : (Files.readString(file) + "\n").split("\n", -1)) {
            if (line.isEmpty()) {
                if (!step.line.isEmpty() || !step.comments.isEmpty()) {
                    steps.add(step);
                }
                step = new Step();
                answer = null;
            } else if (line.equals("---- java")) {
                step.java = "";
                answer = new StringBuilder();
            } else if (line.equals("----")) {
                answer = new StringBuilder();
            } else if (answer != null) {
                String text = answer.append(line).append('\n').toString();
                if (step.java != null) {
                    step.java = text;
                } else {
                    step.here = text;
                }
            } else if (line.startsWith("#")) {
                step.comments.add(line);
            } else if (step.line.isEmpty()) {
                step.line = line;
            } else {
                step.directive(line);
            }
        }
        return steps;
    }

    static void write(Path file, List<Step> steps) throws IOException {
        StringBuilder out = new StringBuilder();
        for (Step s : steps) {
            s.comments.forEach(c -> out.append(c).append('\n'));
            if (!s.line.isEmpty()) {
                out.append(s.line).append('\n');
                s.directives.forEach(d -> out.append(d).append('\n'));
            }
            if (!s.line.isEmpty() && !s.isVerb()) {
                out.append("----\n").append(s.here);
                if (s.java != null) {
                    out.append("---- java\n").append(s.java);
                }
            }
            out.append('\n');
        }
        Files.writeString(file, out.substring(0, Math.max(0, out.length() - 1)));
    }
}
