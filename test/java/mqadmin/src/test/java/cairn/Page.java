package cairn;

import java.util.List;
import java.util.Objects;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.apache.rocketmq.tools.command.SubCommand;

/** The table of subcommands in docs/compatibility.md. */
final class Page {
    private static final String FROM = "<!-- mqadmin: what follows is made by MVN_ARGS=-Drewrite test/java/run.sh mqadmin -->\n";
    private static final String TO = "<!-- mqadmin: up to here -->\n";

    private Page() {
    }

    /** The page with the table that the steps make. */
    static String with(String page, List<SubCommand> subcommands, List<Step> steps) {
        int from = page.indexOf(FROM);
        int to = page.indexOf(TO);
        if (from < 0 || to < from) {
            throw new IllegalArgumentException("the page has lost its marks " + FROM + TO);
        }
        return page.substring(0, from + FROM.length()) + table(subcommands, steps) + page.substring(to);
    }

    private static String table(List<SubCommand> subcommands, List<Step> steps) {
        StringBuilder out = new StringBuilder("\n| subcommand | works | answers |\n|---|---|---|\n");
        int works = 0;
        for (SubCommand c : subcommands) {
            List<Step> runs = steps.stream().filter(s -> s.command().equals(c.commandName())).collect(Collectors.toList());
            List<Step> good = runs.stream().filter(s -> s.absent == null && !s.answer(false).contains("Exception")).collect(Collectors.toList());
            out.append("| ").append(c.commandName()).append(" | ");
            if (good.isEmpty()) {
                String why = Objects.requireNonNull(runs.get(0).absent, c.commandName() + " neither works nor says why not");
                out.append("no: ").append(why).append(" | ").append(cell(refusal(runs.get(0)))).append(" |\n");
            } else {
                works++;
                out.append("yes | ").append(cell(said(good.get(0)))).append(" |\n");
            }
        }
        return out.insert(0, "\n" + works + " of " + subcommands.size() + " subcommands work.\n").append('\n').toString();
    }

    /** The first line of an answer that is no heading. */
    private static String said(Step step) {
        String[] lines = step.answer(false).split("\n");
        return Stream.of(lines).filter(l -> !l.startsWith("#") && !l.startsWith("=")).findFirst().orElse(lines[0]);
    }

    /** What the broker, or else the tool, gives as the reason. */
    private static String refusal(Step step) {
        for (String why : new String[] {".*DESC: ", ".*Exception: (?!.* command failed$)", "(?=.*error)"}) {
            for (String l : step.answer(false).split("\n")) {
                if (l.matches(why + ".*")) {
                    return l.replaceFirst(why, "");
                }
            }
        }
        return said(step);
    }

    private static String cell(String text) {
        if (text.isBlank()) {
            return "nothing";
        }
        String s = text.strip().replace("`", "'").replace("|", "\\|");
        return "`" + (s.length() > 120 ? s.substring(0, 120).strip() + " …" : s) + "`";
    }
}
