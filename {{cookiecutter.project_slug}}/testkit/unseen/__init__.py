"""Makes testmon run tests again after changes that it does not see.

testmon knows the functions that a test has executed. It does not know what happens outside of single tests: modules
are imported, with the columns of models, the fields of schemas, routes and constants; fixtures with a wider scope than
one test are set up, and the application with them; migrations run. Nor does it know files that are not Python. After a
change to any of these, each test runs again until it has passed once.

`notes` records what the files were like and which tests have passed since; `selection` makes testmon respect that.
"""
