package cairn;

import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/** The values that differ from run to run, and their names in the transcript. */
final class Words {
    private static final Pattern NAME = Pattern.compile("\\$([A-Z0-9_]+)");
    private static final String[][] ALSO = {
        {"\\b[0-9A-F]{32}([0-9A-F]{8}|[0-9A-F]{24})?\\b", "ID"},
        {"\\b(storeSize|commitLogOffset|CommitLog Offset|physicOffset|physicSize|spentTimeMills)(=|: +)\\d+", "$1$2N"},
        {"\\d{4}-\\d\\d-\\d\\d[ #]\\d\\d:\\d\\d:\\d\\d([:,.]\\d{3})?", "TIME"},
        {"\\b\\d{14}-\\d+\\b|(?<!\\.)\\b1[6-9]\\d{11}\\b|(?<!\\.)\\b20\\d{15}\\b", "TIME"},
        {"/?127\\.0\\.0\\.1:\\d+", "ADDRESS"},
        {"/?\\b\\d{1,3}(\\.\\d{1,3}){3}(:\\d+)?", "ADDRESS"},
        {"\\b\\d+(\\.\\d+)?(E-?\\d+)?\\s?ms\\b", "N ms"},
        {"(?<![.\\d])\\d+\\.\\d+(E-?\\d+)?(?![.\\d])", "N"},
    };
    private final Map<String, String> values = new LinkedHashMap<>();

    void set(String name, String value) {
        values.put(name, value);
    }

    String get(String name) {
        String value = values.get(name);
        if (value == null) {
            throw new IllegalArgumentException("$" + name + " is nothing yet");
        }
        return value;
    }

    /** A line of the transcript with its names replaced by values. */
    String[] fill(String line) {
        return Stream.of(line.split(" +")).map(w -> {
            Matcher m = NAME.matcher(w);
            return m.replaceAll(r -> Matcher.quoteReplacement(get(r.group(1))));
        }).toArray(String[]::new);
    }

    /** What was printed, without what differs from run to run, in as many lines as the step keeps. */
    String normal(Step step, String printed) {
        Stream<String> lines = Arrays.stream(printed.split("\r?\n")).filter(l -> !l.matches("\\s+(at |\\.\\.\\. \\d+ more).*|(For more information|See https?:).*|\\s*"));
        lines = lines.map(this::line).map(l -> step.hide == null ? l : step.hide.matcher(l).replaceAll("N"));
        if (step.keep != null) {
            lines = lines.filter(l -> step.keep.matcher(l).find());
        }
        if (step.sort) {
            lines = lines.sorted();
        }
        return lines.map(l -> l + "\n").collect(Collectors.joining());
    }

    private String line(String l) {
        for (Map.Entry<String, String> v : values.entrySet()) {
            l = l.replace(v.getValue(), "$" + v.getKey());
        }
        for (String[] a : ALSO) {
            l = l.replaceAll(a[0], a[1]);
        }
        return l.replaceAll("[ \t]{2,}", "  ").replaceAll("\\s+$", "");
    }
}
