"""Words that show that a column or a codebook names people. Data for ``identifier_patterns``."""

from __future__ import annotations

# Content -> headers for it: lower case, without accents, spaces and punctuation.
HEADERS = {
    "a name": """
        firstname fname givenname forename middlename lastname lname familyname surname maidenname
        birthname fullname patientname patname ptname nameofpatient vorname nachname familienname
        zuname geburtsname patientenname prenom nomdefamille nomdenaissance nompatient nomprenom
        apellido apellidos nombrecompleto nombrepaciente cognome nomepaziente voornaam achternaam
        fornavn etternavn efternavn fornamn efternamn etunimi sukunimi nazwisko prijmeni soyadi
        sobrenome primeironome nomepaciente
    """,
    "an address or a telephone": """
        email emailaddress emailadresse phone phonenumber telephone telephonenumber telefon telefono
        telefonnummer mobilephone mobilenumber handynummer fax faxnumber address homeaddress
        streetaddress postaladdress adresse direccion indirizzo adres postcode postalcode zipcode
        plz postleitzahl codepostal codigopostal
    """,
    "a record or insurance number": """
        mrn medicalrecordnumber recordnumber patientid patid patientnumber patientnr patientno
        hospitalnumber casenumber fallnummer ssn socialsecuritynumber socialsecurity nhsnumber
        ahvnummer ahvnr insurancenumber versichertennummer policynumber passport passportnumber
        nationalid personnummer fodselsnummer bsn nir codicefiscale dni licensenumber
        healthplannumber accountnumber
    """,
    "a date of birth": """
        dateofbirth birthdate birthday dob geburtsdatum datedenaissance datenaissance
        fechanacimiento fechadenacimiento datadinascita datadenascimento geboortedatum fodselsdato
    """,
}
WHOLE_HEADERS = "name names nom nome nombre imie"  # with other words, something else
# Common given names, without those that are also months, places, religions or medical words.
GIVEN_NAMES = """
    aaron abigail adam adele agnieszka ahmed ahmet aisha akira alain alan albert alberto
    alejandro alessandro alessia alexander alexei alice amanda amit amy ana anders andrea
    andreas andrei andrew andrzej angela angelo anil anja ann anna anneli anthony antoine anton
    antonio arthur ashley aurelie ayse barbara beatriz benjamin bernard bernd betty beverly
    billy birgit birgitta bjorn bobby bradley brandon brenda brian brigitte brittany bruce bruno
    bryan camille carl carlos carmen carol carolyn catherine celine charles cheryl chiara chloe
    christina christine christopher claudia cornelis cristina cynthia daniel danielle david
    davide deborah debra denise dennis diana diane diego dieter dmitri donald donna dorothy
    douglas dylan edward elena elias elijah elisa elizabeth emilia emily emine emma eric erik
    erika ethan eugene evelyn ewa fatima fatma felipe felix fernanda fernando finn florian
    francesca francesco francisco francois francoise franz friedrich gabriel gary georg gerald
    gerhard gerrit giovanna giovanni gisela giulia giuseppe gloria gregory grzegorz gunter
    gustavo hannah hans harold hasan hassan hatice heike heinrich heinz helen helene helga
    helmut hendrik henry hiroshi horst hugo hui huseyin hussein ibrahim ingrid irina isabel
    isabella isabelle ivan jacob jacqueline jacques james janet janice jason javier jean jeffrey
    jennifer jeremy jesse jessica jihoon jing joan joao johan johanna john jonas jonathan jorge
    jose josef joseph joshua joyce juan judith judy jules julia juliana julie julien juliette
    jurgen justin karen karin karl katarzyna katherine kathleen kathryn katrin kayla keith kelly
    kenji kenneth kevin khadija khalid kimberly klaus kristina krystyna krzysztof kyle lakshmi
    larry lars laura lauren laurent lawrence lea lena leonie linda lisa logan lorenzo louis luc
    lucas lucia luigi luis lukas malgorzata manfred manon manuel marcin marco margaret maria
    mariam marie marilyn mario markus martha mary mason mateus mathieu matteo matthew matthias
    megan mehmet melissa mia michael michal michel michelle miguel mikhail ming minjun mohamed
    mohammed monika monique muhammad mustafa nancy natalia natalie nathalie nathan nicholas
    nicolas nicole nikolai nils noah olga olivia omar otto pablo pamela paola patricia patrick
    paul paulo pawel pedro peter petra philip philippe pierre pieter pietro piotr pooja priya
    rachel rafael rahul ralph ramesh randy raphael raquel rebecca regula renate reto richard
    robert roger ronald roy russell ruth ryan sabine salvatore samantha samuel sandra sanjay
    sara sarah scott sean sergei sergio sharon shirley sophia sophie stefan stephanie stephen
    steven sunil sunita suresh susan susanne sven svetlana sylvie takashi tatiana teresa terry
    theresa thiago thomas timothy tomasz tyler urs ursula uwe vijay vincent vincenzo vladimir
    vreni walter wayne wei werner wilhelm willem william willie wolfgang xin yan ying yoko
    youssef yuki zachary zainab zeynep
"""
