import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.Comparator;
import java.util.HashMap;
import java.util.Locale;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/** A model in one Java file without libraries: each line of input is a call, each line of output its answer. */
public class Words {
    private static final Pattern WORD = Pattern.compile("[\\p{L}\\p{N}]+(?:['’-][\\p{L}\\p{N}]+)*");

    public static void main(String[] arguments) throws IOException {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        System.err.println("counting words with Java " + Runtime.version().feature()); // the model's log
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            out.print(answer(line) + "\n");
            out.flush();
        }
    }

    private static String answer(String line) {
        try {
            Map<String, Object> input = new Json(line).object();
            return counts((String) input.get("text"), ((Double) input.getOrDefault("most", 10.0)).intValue());
        } catch (IllegalArgumentException | ClassCastException | NullPointerException
            | IndexOutOfBoundsException error) {
            return "{\"error\":" + Json.quoted("the input cannot be read: " + error.getMessage()) + "}";
        }
    }

    private static String counts(String text, int most) {
        Map<String, Integer> counts = new HashMap<>();
        int total = 0;
        for (Matcher words = WORD.matcher(text.toLowerCase(Locale.ROOT)); words.find(); total++) {
            counts.merge(words.group(), 1, Integer::sum);
        }
        Comparator<Map.Entry<String, Integer>> frequency = Map.Entry.comparingByValue(Comparator.reverseOrder());
        String listed = counts.entrySet().stream()
            .sorted(frequency.thenComparing(Map.Entry.comparingByKey()))
            .limit(most)
            .map(entry -> "{\"word\":" + Json.quoted(entry.getKey()) + ",\"count\":" + entry.getValue() + "}")
            .collect(Collectors.joining(","));
        return "{\"total\":" + total + ",\"different\":" + counts.size() + ",\"words\":[" + listed + "]}";
    }

    /** Reads a flat JSON object: its members are texts, numbers, booleans or null. The model's schema allows no others. */
    private static final class Json {
        private final String text;
        private int at;

        Json(String text) {
            this.text = text;
        }

        Map<String, Object> object() {
            Map<String, Object> members = new HashMap<>();
            expect('{');
            if (next() == '}') {
                return members;
            }
            do {
                String name = string();
                expect(':');
                members.put(name, value());
            } while (separator() == ',');
            return members;
        }

        private Object value() {
            if (next() == '"') {
                return string();
            }
            int begin = at;
            while (at < text.length() && ",} \t".indexOf(text.charAt(at)) < 0) {
                at++;
            }
            String word = text.substring(begin, at);
            return switch (word) {
                case "true" -> true;
                case "false" -> false;
                case "null" -> null;
                default -> Double.valueOf(word);
            };
        }

        private String string() {
            expect('"');
            StringBuilder read = new StringBuilder();
            while (at < text.length() && text.charAt(at) != '"') {
                char letter = text.charAt(at++);
                read.append(letter == '\\' ? escaped() : letter);
            }
            expect('"');
            return read.toString();
        }

        private char escaped() {
            char letter = text.charAt(at++);
            int control = "bfnrt".indexOf(letter);
            if (letter == 'u') {
                at += 4;
                return (char) Integer.parseInt(text.substring(at - 4, at), 16);
            }
            return control < 0 ? letter : "\b\f\n\r\t".charAt(control);
        }

        private char separator() {
            char found = next();
            at++;
            if (found != ',' && found != '}') {
                throw new IllegalArgumentException("a comma or brace is missing at " + at);
            }
            return found;
        }

        private void expect(char wanted) {
            if (next() != wanted) {
                throw new IllegalArgumentException(wanted + " is missing at " + at);
            }
            at++;
        }

        /** Skips blanks; returns the character behind them, which remains to be read. */
        private char next() {
            while (at < text.length() && " \t".indexOf(text.charAt(at)) >= 0) {
                at++;
            }
            if (at == text.length()) {
                throw new IllegalArgumentException("it ends too early");
            }
            return text.charAt(at);
        }

        static String quoted(String text) {
            StringBuilder written = new StringBuilder("\"");
            for (char letter : text.toCharArray()) {
                if (letter < ' ') {
                    written.append(String.format("\\u%04x", (int) letter));
                } else {
                    written.append(letter == '"' || letter == '\\' ? "\\" : "").append(letter);
                }
            }
            return written.append('"').toString();
        }
    }
}
